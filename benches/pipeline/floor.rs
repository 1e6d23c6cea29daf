//! The floor: what the same server does when every command is a transaction of its own, and nothing else happens. It plans
//! as for the program.

use std::{io, io::Write as _, process::Stdio};

use allocation::pg::PLANNER;
use anyhow::{Context as _, bail, ensure};
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::lab::{Lab, STOCKED};

/// The statements of one command, in pgbench's language.
const SCRIPT: &str = include_str!("allocate.sql");
const CLIENTS: &str = "8";
const SECONDS: &str = "6";

/// Transactions a second; none if pgbench is not installed. They end with their database, outbox rows and all.
pub(crate) async fn transactions_per_second(lab: &Lab) -> anyhow::Result<Option<f64>> {
    let name = "floor";
    lab.copy(STOCKED, name).await?;
    let played = pgbench(lab, name).await;
    lab.drop_database(name).await?;
    played
}

async fn pgbench(lab: &Lab, database: &str) -> anyhow::Result<Option<f64>> {
    let mut script = NamedTempFile::new()?;
    script.write_all(SCRIPT.as_bytes())?;
    let mut pgbench = Command::new("pgbench");
    pgbench
        .args(["--no-vacuum", "--protocol=prepared", "--define=number=0"])
        .args(["--client", CLIENTS, "--jobs=2", "--time", SECONDS, "--file"])
        .arg(script.path())
        .arg(lab.url(database).as_str())
        .env("PGOPTIONS", PLANNER.map(|(name, value)| format!("-c {name}={value}")).join(" "))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match pgbench.output().await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.context("pgbench does not start")?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench ended with {}:\n{said}", output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    let Some(tps) = printed.lines().find_map(|line| line.strip_prefix("tps = ")) else {
        bail!("pgbench printed no transactions a second:\n{printed}{said}");
    };
    let tps = tps.split_whitespace().next().unwrap_or_default();
    Ok(Some(tps.parse().with_context(|| format!("pgbench printed tps = {tps}"))?))
}
