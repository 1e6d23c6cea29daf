//! Processes of the program under test: those that run, and calls of the command line.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use allocation::crash_points::CrashPoint;
use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{report::say, servers::signal, wait::POLL};

/// A stop is quick, unless a server is away.
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// Whoever is to die of a crash point has reached it by then.
const DIES_WITHIN: Duration = Duration::from_secs(30);
/// A process has said something by then, unless it cannot.
const SPEAKS_WITHIN: Duration = Duration::from_secs(10);
/// How a shell would call the signal.
const KILLED: i32 = 9;
/// Lines of a log that are shown when something went wrong.
const TAIL: usize = 25;

/// A process that works until it is told to stop. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Program {
    /// Starts a process whose log goes to a file.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log)?;
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn()?;
        let pid = child.id().context("a child that was not waited for has an id")?;
        Ok(Self { child, pid, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended, for whatever reason.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The most memory it ever had, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(peak.context("Linux knows the peak")?.trim().trim_end_matches(" kB").parse()?)
    }

    /// Waits until it has died of a crash point, and says of which.
    pub(crate) async fn dies(&mut self) -> anyhow::Result<CrashPoint> {
        let Ok(ended) = timeout(DIES_WITHIN, self.child.wait()).await else {
            bail!("it did not die within {DIES_WITHIN:?}:\n{}", self.tail());
        };
        let ended = ended?;
        ensure!(ended.signal() == Some(KILLED), "it ended with {ended}, not by SIGKILL:\n{}", self.tail());
        let log = self.log();
        let mut last_words = log.lines().rev().filter_map(|line| line.strip_prefix("crash point "));
        let point = last_words.next().and_then(|words| words.split(' ').next());
        let point = CrashPoint::ALL.iter().find(|known| Some(known.name()) == point);
        point.copied().with_context(|| format!("it does not say where it died:\n{}", self.tail()))
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ends(&mut self) -> anyhow::Result<ExitStatus> {
        let Ok(ended) = timeout(STOPS_WITHIN, self.child.wait()).await else {
            bail!("process {} did not end within {STOPS_WITHIN:?}:\n{}", self.pid, self.tail());
        };
        Ok(ended?)
    }

    /// SIGTERM, unless it has ended by itself, and how it ended. It listens to signals once it has said anything.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        let begin = Instant::now();
        while self.is_alive() && self.log().is_empty() && begin.elapsed() < SPEAKS_WITHIN {
            tokio::time::sleep(POLL).await;
        }
        let ended = if let Some(ended) = self.child.try_wait()? {
            ended
        } else {
            self.signal(Signal::TERM)?;
            self.ends().await?
        };
        if !ended.success() {
            say(&format!("--- process {} ended with {ended}\n{}", self.pid, self.tail()));
        }
        Ok(ended)
    }

    /// SIGKILL: it has no time for anything.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Any signal; STOP makes it do nothing without knowing, CONT lets it go on where it was.
    pub(crate) fn signal(&self, which: Signal) -> anyhow::Result<()> {
        signal(self.pid, which)
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

/// How a call of the command line ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) async fn to(command: &mut Command) -> anyhow::Result<Self> {
        let output = command.kill_on_drop(true).stdin(Stdio::null()).output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    /// Itself, after a look at its exit code.
    pub(crate) fn exits(self, code: i32) -> anyhow::Result<Self> {
        ensure!(
            self.code == Some(code),
            "exit code {:?}, not {code}: {}{}",
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
