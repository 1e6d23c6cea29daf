//! Printing. A closed pipe (`| head`) is not an error, a full disk is.
//!
//! Everything that is printed goes through this file, which replaces characters that are not printable: text from a
//! message, a server or a file cannot control the terminal.

use std::{
    fmt::Display,
    io::{self, BufWriter, ErrorKind, Stdout, Write},
    ops::ControlFlow,
};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::ports::text::{escape_json, printable};

/// A line of text on standard output. A line end in it is not printable: it could begin a line that looks like another.
pub(super) fn line(text: &str) {
    print(&printable(text));
}

/// Text of several lines on standard output.
pub(super) fn lines(text: &str) {
    print(&printable_lines(text));
}

/// A line of text on standard error: anything that is not a result.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Text of several lines on standard error.
pub(super) fn note_lines(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(text));
}

/// An error, on standard error.
pub(super) fn error(text: &str) {
    note(&format!("allocation: {text}"));
}

/// A result as JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&escape_json(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// A script of this program on standard output, as it is.
pub(super) fn script(text: &[u8]) -> anyhow::Result<()> {
    reader(io::stdout().lock().write_all(text)).map(drop)
}

/// Results as JSON lines on standard output.
pub(super) struct JsonLines(BufWriter<Stdout>);

impl JsonLines {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout()))
    }

    /// Writes a result. Breaks when the output has no reader any more.
    pub(super) fn write(&mut self, value: &impl Serialize) -> anyhow::Result<ControlFlow<()>> {
        let line = serde_json::to_string(value)?;
        reader(writeln!(self.0, "{}", escape_json(&line)))
    }

    /// Writes what is buffered.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        reader(self.0.flush()).map(drop)
    }
}

/// Whether the output still has a reader.
fn reader(written: io::Result<()>) -> anyhow::Result<ControlFlow<()>> {
    match written {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write")),
    }
}

fn print(text: &str) {
    if let Err(error) = reader(writeln!(io::stdout().lock(), "{text}")) {
        self::error(&format!("{error:#}"));
        std::process::exit(1);
    }
}

/// Replaces characters that are not printable, except line ends and tabs.
fn printable_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A table of the terminal's width, if there is a terminal.
pub(super) struct Rows(Table);

impl Rows {
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(columns);
        Self(table)
    }

    pub(super) fn push(&mut self, fields: impl IntoIterator<Item = Field>) {
        self.0.add_row(fields.into_iter().map(|field| field.0));
    }

    pub(super) fn print(&self) {
        print(&self.0.to_string());
    }
}

/// A field of a table.
pub(super) struct Field(Cell);

impl Field {
    pub(super) fn new(text: impl Display) -> Self {
        Self(Cell::new(printable(&text.to_string())))
    }

    pub(super) fn coloured(text: impl Display, colour: Color) -> Self {
        Self(Self::new(text).0.fg(colour))
    }
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
