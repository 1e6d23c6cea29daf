//! The program as a process of its own, and what the kernel knows of it.

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

/// `worker.shutdown_timeout`, and some.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Clock ticks in which Linux tells a process's times: the same on every machine one meets.
const TICKS_A_SECOND: f64 = 100.0;
/// Lines of the log that are shown when something is wrong.
const TAIL: usize = 20;

/// A process that works until it is told to stop. Dropping it kills it.
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
        let log = NamedTempFile::new().context("the log needs a file")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen()?).kill_on_drop(true);
        let begin = Instant::now();
        let child = command.spawn().context("the program does not start")?;
        let pid = child.id().context("the program ended at once")?;
        Ok(Self { child, pid, log, begin })
    }

    /// What it logged last.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log.path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// An error if it has ended.
    pub(crate) fn ensure_alive(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait().context("the process cannot be asked after")?;
        ensure!(ended.is_none(), "the process ended by itself, {ended:?}; its log ends with\n{}", self.log());
        Ok(())
    }

    /// Time it has spent on a core, its own and the kernel's for it. It begins itself anew once, under the same id, and
    /// the time is counted on.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The program's name stands in brackets and may hold anything; behind it the two times are 12th and 13th.
        let (_, behind) = stat.rsplit_once(')').context("/proc has no name of the process")?;
        let times = behind.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        let ticks: u32 = times.sum::<Result<_, _>>().context("/proc has no times of the process")?;
        Ok(f64::from(ticks) / TICKS_A_SECOND)
    }

    /// The most memory it ever had.
    pub(crate) fn peak_mebibytes(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let kibibytes: u32 = peak.context("/proc has no peak of the process")?.parse()?;
        Ok(f64::from(kibibytes) / 1024.0)
    }

    /// SIGTERM; an error if it does not end in order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let tell = format!("kill -s TERM {}", self.pid);
        let told = Command::new("sh").args(["-c", &tell]).status().await.context("there is no shell")?;
        ensure!(told.success(), "the process was gone before it was told to stop:\n{}", self.log());
        let ended = timeout(STOPS_WITHIN, self.child.wait())
            .await
            .with_context(|| format!("it did not stop within {STOPS_WITHIN:?}:\n{}", self.log()))??;
        ensure!(ended.success(), "it stopped with {ended}:\n{}", self.log());
        Ok(())
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("{path}: has the process ended?\n{}", self.log()))
    }
}
