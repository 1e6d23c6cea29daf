//! Printing. A reader that went away (`| head`) is no error; a full disk is.

use std::io::{ErrorKind, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// One line of words on standard output.
pub(super) fn line(text: &str) {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            self::error(&format!("cannot write: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// One line of words on standard error: progress, and what is not an answer.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// What went wrong, on standard error.
pub(super) fn error(text: &str) {
    note(&format!("allocation: {text}"));
}

/// An answer as JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Text from a message, for a terminal: control characters could do anything to it.
pub(super) fn sanitize(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// The same, line by line.
pub(super) fn printable_lines(text: &str) -> String {
    text.lines().map(sanitize).collect::<Vec<_>>().join("\n")
}

/// A table that fits the terminal, if there is one.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns);
    table
}

/// To the microsecond.
pub(super) fn long_time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// To the second: what people read in a column.
pub(super) fn short_time(at: OffsetDateTime) -> String {
    let long = long_time(at);
    long.get(..19).map_or(long.clone(), |seconds| seconds.replace('T', " "))
}
