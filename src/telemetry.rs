//! Log lines: words and fields, on standard error.

mod repetitions;

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
};

use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    config::{Log, LogFormat},
    ports::text::{escape_json, is_printable},
};

use repetitions::Repetitions;

/// Libraries that must not log: the broker client logs whole messages that are returned, and errors of connections that this
/// program logs itself.
const QUIET: [&str; 3] = ["lapin=off", "amq_protocol=off", "sqlx=error"];

/// Dropped at the end of the process: logs how often lines were repeated.
pub(crate) struct Logging(Repetitions);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.log_all();
    }
}

/// Starts logging, once per process.
///
/// # Errors
/// `log.filter` cannot be understood.
pub(crate) fn start(log: &Log) -> anyhow::Result<Logging> {
    let mut filter = EnvFilter::builder().parse(&log.filter)?;
    for quiet in QUIET {
        filter = filter.add_directive(quiet.parse()?);
    }
    let format = log.format;
    let repetitions = Repetitions::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || PrintableStderr(format))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines.with_filter(repetitions.clone())).init(),
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_filter(repetitions.clone())).init();
        }
    }
    Ok(Logging(repetitions))
}

/// Standard error, where each write is a whole log line. The logging library escapes ASCII control characters; the others
/// that are not printable are replaced here.
struct PrintableStderr(LogFormat);

impl Write for PrintableStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let printable = match self.0 {
            LogFormat::Json => escape_json(&text),
            LogFormat::Text => replace_hidden(&text),
        };
        io::stderr().lock().write_all(printable.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Replaces characters that are not printable, except those of ASCII: colours of the log are made of them.
fn replace_hidden(text: &str) -> Cow<'_, str> {
    let is_hidden = |character: char| !character.is_ascii() && !is_printable(character);
    if text.contains(is_hidden) { text.replace(is_hidden, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_replaced_and_colours_stay() {
        assert_eq!(replace_hidden("\u{1b}[31mSKU \u{202e}é\u{9b}\n"), "\u{1b}[31mSKU \u{fffd}é\u{fffd}\n");
    }
}
