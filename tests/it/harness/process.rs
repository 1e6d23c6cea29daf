//! Processes of the program: long-running ones, and calls of the command line.

use std::{
    fs::File,
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    amqp_url,
    roles::{RUNTIME_LOGIN, tests_runtime_role},
    wait_until,
};

/// The deadline for a shutdown.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// The program with a namespace and a database.
pub(super) fn program(namespace: &str, database_url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allocation"));
    command
        .args(arguments)
        .env("DATABASE_URL", as_tested_role(database_url, arguments))
        .env("AMQP_URL", amqp_url())
        .env("ALLOCATION__NAMESPACE", namespace)
        .env("ALLOCATION__NOTIFICATIONS__DIGEST", "0s")
        .env("ALLOCATION__METRICS__LISTEN", "")
        .kill_on_drop(true);
    command
}

/// With `TEST_ROLE=runtime`, everything but `migrate` has the privileges of `deploy/sql/grants.sql` only.
pub(crate) fn as_tested_role(url: &str, arguments: &[&str]) -> String {
    let mut url = url::Url::parse(url).expect("it is a URL");
    if tests_runtime_role() && arguments.first() != Some(&"migrate") {
        url.set_username(RUNTIME_LOGIN).expect("the URL has a host");
    }
    url.into()
}

/// Runs the program until it exits.
pub(super) async fn call(command: &mut Command) -> CliOutput {
    CliOutput::of(command.output().await.expect("the program was built and starts"))
}

/// A process that runs until it is stopped. It is killed on drop.
pub(crate) struct Running {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Running {
    /// Starts a process whose log goes to a file.
    pub(super) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).expect("the log file can be created");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the program was built and starts");
        let pid = child.id().expect("a running child has an id");
        Self { child, pid, log }
    }

    /// Whether it is still running.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The number of its TCP sockets that accept connections.
    pub(crate) fn listening_sockets(&self) -> usize {
        let table =
            |name| std::fs::read_to_string(format!("/proc/{}/net/{name}", self.pid)).unwrap_or_default();
        let sockets: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .expect("the process is running")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let listening = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // The state LISTEN, and the inode of the socket.
            fields.get(3) == Some(&"0A")
                && fields.get(9).is_some_and(|inode| sockets.contains(&format!("socket:[{inode}]")))
        };
        [table("tcp"), table("tcp6")].iter().map(|table| table.lines().filter(listening).count()).sum()
    }

    /// Its peak memory usage in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the process is running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let digits = peak.expect("/proc has the peak").trim().trim_end_matches(" kB");
        digits.parse().expect("the peak is a number")
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) async fn terminate(self) -> ExitStatus {
        self.stop_with("TERM").await.0
    }

    /// Sends a signal, named without `SIG`, and returns the exit status and the log. Waits for the first log line, because
    /// the process handles signals only after that.
    pub(crate) async fn stop_with(mut self, signal: &str) -> (ExitStatus, String) {
        wait_until("the process logs", STOPS_WITHIN, async || !self.log().is_empty() || !self.is_alive())
            .await;
        self.signal(signal).await;
        let Ok(ended) = timeout(STOPS_WITHIN, self.child.wait()).await else {
            panic!("process {} did not stop within {STOPS_WITHIN:?}:\n{}", self.pid, self.log());
        };
        (ended.expect("a child can be waited for"), self.log())
    }

    /// Sends SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Sends SIGSTOP: the process is paused.
    pub(crate) async fn pause(&self) {
        self.signal("STOP").await;
    }

    /// Sends SIGCONT: the process continues.
    pub(crate) async fn resume(&self) {
        self.signal("CONT").await;
    }

    /// Sends a signal, named without `SIG`.
    pub(crate) async fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -s {name} {}", self.pid))
            .status()
            .await
            .expect("a shell exists");
        assert!(status.success(), "SIG{name} could not be sent to process {}:\n{}", self.pid, self.log());
    }
}

/// The exit code and the output of a call of the command line.
#[derive(Debug)]
pub(crate) struct CliOutput {
    /// The exit code.
    pub(crate) code: i32,
    stdout: String,
    stderr: String,
}

impl CliOutput {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the command line prints UTF-8");
        Self {
            code: output.status.code().expect("no signal ended the command line"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts the exit code and returns the output.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that standard error contains a text.
    #[track_caller]
    pub(crate) fn assert_error(&self, error: &str) {
        assert!(self.stderr.contains(error), "{error:?} is not in {}", self.stderr);
    }

    pub(crate) fn stdout(&self) -> &str {
        &self.stdout
    }

    pub(crate) fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Standard output, then standard error.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        self.read(&self.stdout)
    }

    /// Standard output as JSON lines.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| self.read(line)).collect()
    }

    fn read(&self, json: &str) -> Value {
        serde_json::from_str(json)
            .unwrap_or_else(|error| panic!("not JSON, {error}: {}{}", self.stdout, self.stderr))
    }
}
