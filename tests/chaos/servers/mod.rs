//! Private servers on free ports and in temporary directories. Tests may kill, stop and fill them.

mod postgres;
mod rabbitmq;

use std::{
    env,
    ffi::OsString,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::prometheus;

pub(crate) use postgres::Postgres;
pub(crate) use rabbitmq::RabbitMq;

/// Prefixes of the variables that control the program and the servers.
const CONTROL_PREFIXES: [&str; 4] = ["ALLOCATION_", "CRASH_AT", "SEEDED_BUG", "RABBITMQ_"];

/// Variables of this environment that must not reach the program or the servers.
pub(crate) fn control_variables() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        CONTROL_PREFIXES.iter().any(|beginning| name.starts_with(beginning))
    })
}

/// The software that this machine lacks.
pub(crate) fn missing_software() -> Vec<String> {
    let parts = [
        (
            postgres::binaries().is_none(),
            "PostgreSQL: /usr/lib/postgresql/*/bin (Debian package: postgresql)",
        ),
        (
            rabbitmq::binaries().is_none(),
            "RabbitMQ: rabbitmq_server-*/sbin (Debian package: rabbitmq-server)",
        ),
        (rabbitmq::port_mapper().is_none(), "Erlang's port mapper, epmd (Debian package: erlang-base)"),
        (!prometheus::is_installed(), "Prometheus (Debian package: prometheus)"),
    ];
    parts
        .into_iter()
        .filter(|(is_missing, _)| *is_missing)
        .map(|(_, description)| description.to_owned())
        .collect()
}

/// A free port.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The last entry of a directory whose name has this prefix.
fn latest_entry(folder: &str, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut named: Vec<_> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    named.sort();
    named.pop()
}

fn if_exists(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

/// The last lines of a server's log.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Sends a signal to one process.
pub(crate) fn send_signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or_else(|| anyhow::anyhow!("0 is not a process id"))?;
    Ok(kill_process(pid, signal)?)
}
