//! The pgbench baseline: the same server with one transaction per command and no other work, with the planner settings of the
//! program.

use std::{io, io::Write as _, process::Stdio};

use allocation::pg::PLANNER;
use anyhow::{Context as _, bail, ensure};
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::servers::{BenchServers, STOCKED};

/// The statements of one command, as a pgbench script.
const SCRIPT: &str = include_str!("allocate.sql");
const CLIENTS: &str = "8";
const SECONDS: &str = "6";

/// Transactions per second; `None` if pgbench is not installed.
pub(crate) async fn transactions_per_second(servers: &BenchServers) -> anyhow::Result<Option<f64>> {
    let name = "pgbench";
    servers.copy(STOCKED, name).await?;
    let result = pgbench(servers, name).await;
    servers.drop_database(name).await?;
    result
}

async fn pgbench(servers: &BenchServers, database: &str) -> anyhow::Result<Option<f64>> {
    let mut script = NamedTempFile::new()?;
    script.write_all(SCRIPT.as_bytes())?;
    let mut pgbench = Command::new("pgbench");
    pgbench
        .args(["--no-vacuum", "--protocol=prepared", "--define=number=0"])
        .args(["--client", CLIENTS, "--jobs=2", "--time", SECONDS, "--file"])
        .arg(script.path())
        .arg(servers.url(database).as_str())
        .env("PGOPTIONS", PLANNER.map(|(name, value)| format!("-c {name}={value}")).join(" "))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match pgbench.output().await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.context("cannot start pgbench")?,
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench ended with {}:\n{stderr}", output.status);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(tps) = stdout.lines().find_map(|line| line.strip_prefix("tps = ")) else {
        bail!("pgbench printed no transactions per second:\n{stdout}{stderr}");
    };
    let tps = tps.split_whitespace().next().unwrap_or_default();
    Ok(Some(tps.parse().with_context(|| format!("pgbench printed tps = {tps}"))?))
}
