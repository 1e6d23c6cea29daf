//! Processes of the program under test: running ones, and command line calls.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use allocation::faults::CrashPoint;
use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{output::print_line, servers::send_signal, wait::POLL};

/// Time limit of an orderly stop while the servers are available.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit to reach a crash point.
const CRASH_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the first log line.
const FIRST_LOG_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of the signal.
const SIGKILL: i32 = 9;
/// Log lines that are shown after a failure.
const TAIL_LINES: usize = 25;

/// A running process. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Program {
    /// Starts a process that logs to a file.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log)?;
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn()?;
        let pid = child.id().context("a running child has a process id")?;
        Ok(Self { child, pid, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is still running.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has logged that a server is unavailable: `database` or `broker`.
    pub(crate) fn has_logged_outage_of(&self, dependency: &str) -> bool {
        self.log().contains(&format!("dependency=\"{dependency}\""))
    }

    /// The peak memory in KiB.
    pub(crate) fn peak_memory_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(peak.context("no VmHWM in /proc")?.trim().trim_end_matches(" kB").parse()?)
    }

    /// Waits until it crashes at a crash point, and returns that point.
    pub(crate) async fn wait_for_crash(&mut self) -> anyhow::Result<CrashPoint> {
        let Ok(status) = timeout(CRASH_TIMEOUT, self.child.wait()).await else {
            bail!("no crash within {CRASH_TIMEOUT:?}:\n{}", self.tail());
        };
        let status = status?;
        ensure!(status.signal() == Some(SIGKILL), "ended with {status}, not by SIGKILL:\n{}", self.tail());
        let log = self.log();
        let mut crash_lines = log.lines().rev().filter_map(|line| line.strip_prefix("crash point "));
        let point = crash_lines.next().and_then(|words| words.split(' ').next());
        let point = CrashPoint::ALL.iter().find(|known| Some(known.name()) == point);
        point.copied().with_context(|| format!("the log names no crash point:\n{}", self.tail()))
    }

    /// Waits until it ends.
    pub(crate) async fn wait_for_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let Ok(status) = timeout(STOP_TIMEOUT, self.child.wait()).await else {
            bail!("process {} did not end within {STOP_TIMEOUT:?}:\n{}", self.pid, self.tail());
        };
        Ok(status?)
    }

    /// Sends SIGTERM if it is still running, and returns the exit status. A process that has logged handles signals.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        let begin = Instant::now();
        while self.is_alive() && self.log().is_empty() && begin.elapsed() < FIRST_LOG_TIMEOUT {
            tokio::time::sleep(POLL).await;
        }
        let status = if let Some(status) = self.child.try_wait()? {
            status
        } else {
            self.signal(Signal::TERM)?;
            self.wait_for_exit().await?
        };
        if !status.success() {
            print_line(&format!("--- process {} ended with {status}\n{}", self.pid, self.tail()));
        }
        Ok(status)
    }

    /// Sends SIGKILL.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends any signal, such as STOP and CONT.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        send_signal(self.pid, signal)
    }

    /// The last lines of the log.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Exit code and output of a command line call.
#[derive(Debug)]
pub(crate) struct CliOutput {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CliOutput {
    pub(crate) async fn run(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.kill_on_drop(true).stdin(Stdio::null()).output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    /// Fails if the exit code differs.
    pub(crate) fn ensure_exit_code(self, code: i32) -> anyhow::Result<Self> {
        ensure!(
            self.code == Some(code),
            "exit code {:?}, expected {code}: {}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not JSON: {}{}", self.stdout, self.stderr))
    }
}
