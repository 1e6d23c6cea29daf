//! Log lines: words and fields, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// What others log and must not: the client repeats whole messages when one is returned, and cries over connections
/// that we rebuild and speak of ourselves.
const QUIET: [&str; 3] = ["lapin=off", "amq_protocol=off", "sqlx=error"];

/// Starts logging, once per process.
///
/// # Errors
/// `log.filter` cannot be understood.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder().parse(&log.filter)?;
    for quiet in QUIET {
        filter = filter.add_directive(quiet.parse()?);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
}
