//! Servers of our own, on ports and in folders of our own: they may be killed, stopped and filled.

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

pub(crate) use postgres::Postgres;
pub(crate) use rabbitmq::RabbitMq;

/// How variables begin by which the program and the servers are told what to do.
const COMMANDING: [&str; 4] = ["ALLOCATION_", "CRASH_AT", "PLANTED_BUG", "RABBITMQ_"];

/// Variables of whoever called us that must reach neither the program nor the servers.
pub(crate) fn foreign_variables() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        COMMANDING.iter().any(|beginning| name.starts_with(beginning))
    })
}

/// What this machine lacks, in words; nothing if it has both servers.
pub(crate) fn missing() -> Vec<String> {
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
    ];
    parts.into_iter().filter(|(lacks, _)| *lacks).map(|(_, what)| what.to_owned()).collect()
}

/// A port that nobody listens on at the moment.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The entry of a folder whose name begins like this, the last one if there are several.
fn newest(folder: &str, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut named: Vec<_> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    named.sort();
    named.pop()
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

/// What a server wrote last, for whoever wonders why it did not start.
fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Signals one process, by its id.
pub(crate) fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).ok_or_else(|| anyhow::anyhow!("0 is no process"))?;
    Ok(kill_process(pid, signal)?)
}
