//! A process of the program, and its resource usage.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::NamedTempFile;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Longer than `worker.shutdown_timeout`.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// The unit of process times in `/proc`, on all common Linux systems.
const TICKS_PER_SECOND: f64 = 100.0;
/// Log lines in an error message.
const LOG_TAIL: usize = 20;

/// A process that runs until it is stopped. It is killed on drop.
pub(crate) struct Running {
    child: Child,
    pid: u32,
    log: NamedTempFile,
    /// When it was started.
    pub(crate) begin: Instant,
}

impl Running {
    /// Starts a process.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let log = NamedTempFile::new().context("cannot create a file for the log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen()?).kill_on_drop(true);
        let begin = Instant::now();
        let child = command.spawn().context("cannot start the program")?;
        let pid = child.id().context("the program ended immediately")?;
        Ok(Self { child, pid, log, begin })
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log.path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// An error if the process has ended.
    pub(crate) fn ensure_alive(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait().context("cannot read the state of the process")?;
        ensure!(
            ended.is_none(),
            "the process ended unexpectedly, {ended:?}; its log ends with\n{}",
            self.log()
        );
        Ok(())
    }

    /// Its CPU time, including that of the kernel for it. The program executes itself again once, which keeps the process id and
    /// the time.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The name in parentheses may contain any character; after it, the two times are the fields 12 and 13.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        let ticks: u32 = times.sum::<Result<_, _>>().context("/proc/PID/stat has no times")?;
        Ok(f64::from(ticks) / TICKS_PER_SECOND)
    }

    /// Its peak memory usage.
    pub(crate) fn peak_mebibytes(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes: u32 = peak.context("/proc/PID/status has no peak")?.parse()?;
        Ok(f64::from(kibibytes) / 1024.0)
    }

    /// Sends SIGTERM; an error if the process does not exit successfully.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let kill = format!("kill -s TERM {}", self.pid);
        let sent = Command::new("sh").args(["-c", &kill]).status().await.context("cannot run sh")?;
        ensure!(sent.success(), "the process ended before it was stopped:\n{}", self.log());
        let ended = timeout(STOP_TIMEOUT, self.child.wait()).await.with_context(|| {
            format!("the process did not stop within {STOP_TIMEOUT:?}:\n{}", self.log())
        })??;
        ensure!(ended.success(), "the process stopped with {ended}:\n{}", self.log());
        Ok(())
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}; the process may have ended:\n{}", self.log()))
    }
}
