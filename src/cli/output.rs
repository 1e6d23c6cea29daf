//! Printing. A closed pipe (`| head`) is not an error, a full disk is.

use std::io::{ErrorKind, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A line of text on standard output.
pub(super) fn line(text: &str) {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            self::error(&format!("cannot write: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// A line of text on standard error: anything that is not a result.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error, on standard error.
pub(super) fn error(text: &str) {
    note(&format!("allocation: {text}"));
}

/// A result as JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Replaces control characters, which could control the terminal: for text from a message.
pub(super) fn sanitize(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// [`sanitize`] for text of several lines.
pub(super) fn printable_lines(text: &str) -> String {
    text.lines().map(sanitize).collect::<Vec<_>>().join("\n")
}

/// A table of the terminal's width, if there is a terminal.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns);
    table
}

/// A time with microseconds.
pub(super) fn long_time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// A time in seconds, for a table.
pub(super) fn short_time(at: OffsetDateTime) -> String {
    let long = long_time(at);
    long.get(..19).map_or(long.clone(), |seconds| seconds.replace('T', " "))
}
