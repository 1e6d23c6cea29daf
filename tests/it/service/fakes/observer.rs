//! An observer that keeps what it observes.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use allocation::ports::observer::{MessageReport, Observer, Report};

/// Keeps one line for each report, and the whole reports as text.
#[derive(Debug, Default)]
pub(crate) struct RecordingObserver {
    lines: Mutex<Vec<String>>,
    whole: Mutex<String>,
}

impl RecordingObserver {
    /// The reports so far, which are removed.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything that was reported.
    pub(crate) fn whole(&self) -> String {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for RecordingObserver {
    fn observe(&self, report: &Report<'_>) {
        let line = match report {
            Report::UnitOfWork(unit) => {
                let messages: Vec<_> = unit.messages.iter().map(message).collect();
                format!("{:?} {}: {}", unit.result, unit.source.as_str(), messages.join(", "))
            }
            Report::Failure(failure) => format!("Failure: {}", message(&failure.message)),
            other => format!("{other:?}"),
        };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(whole, "{report:?}").expect("a string can be written");
    }
}

fn message(message: &MessageReport<'_>) -> String {
    let id = message.message_id.unwrap_or("?");
    let outcome = message.outcome.map_or("-", |outcome| outcome.as_str());
    let error = message.error.map(|error| format!(" {}", error.as_str())).unwrap_or_default();
    let attempts =
        if message.attempts > 0 { format!(" attempt {}", message.attempts) } else { String::new() };
    format!("{id} {outcome}{error}{attempts}")
}
