//! Metrics of messages and units of work.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use crate::{
    domain::Reason,
    ports::{
        observer::{
            ErrorClass, FailureReport, MessageOutcome, MessageReport, Source, UnitOfWorkReport,
            UnitOfWorkResult,
        },
        queue::QueueName,
    },
};

use super::catalog::{Catalog, Series};

/// A handler works in memory: mostly some microseconds. The long times are those of one that sends a mail, and the limit.
fn handler_seconds() -> Histogram {
    Histogram::new([0.000_01, 0.000_1, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0])
}

/// A commit takes some milliseconds; a unit of work of several hundred commands, some tens of them. The long times are those
/// of locks (1.5 s) and of time limits (10 s).
fn unit_of_work_seconds() -> Histogram {
    Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// One at light load, up to `worker.max_batch` at heavy load.
fn commands() -> Histogram {
    Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0])
}

/// The failures that end a unit of work.
const CAUSES: [ErrorClass; 8] = [
    ErrorClass::InvalidMessage,
    ErrorClass::Conflict,
    ErrorClass::Locked,
    ErrorClass::Timeout,
    ErrorClass::Panic,
    ErrorClass::Store,
    ErrorClass::Unavailable,
    ErrorClass::Notification,
];

pub(super) struct MessageMetrics {
    messages: Series<Counter, 4>,
    dead_letters: Series<Counter, 2>,
    redelivered: Series<Counter, 1>,
    interrupted_starts: Series<Counter, 1>,
    handling: Series<Histogram, 1>,
    unit_of_work: Series<Histogram, 2>,
    commands: Series<Histogram, 2>,
    failed_units: Series<Counter, 2>,
}

impl MessageMetrics {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let metrics = Self {
            messages: catalog.counter(
                "messages",
                ["queue", "type", "source", "outcome"],
                "Messages that got an outcome, counted after the commit",
            ),
            dead_letters: catalog.counter(
                "dead_letters",
                ["queue", "reason"],
                "Messages that this process handled or archived, and that became dead letters",
            ),
            redelivered: catalog.counter(
                "redelivered",
                ["queue"],
                "Deliveries that were not the first of their message",
            ),
            interrupted_starts: catalog.counter(
                "interrupted_starts",
                ["queue"],
                "Redelivered messages that a process had begun and not ended",
            ),
            handling: catalog.histogram(
                "handling_seconds",
                ["type"],
                "Duration of one command's handler, or of sending a mail",
                handler_seconds,
            ),
            unit_of_work: catalog.histogram(
                "unit_of_work_seconds",
                ["queue", "source"],
                "Duration of a committed unit of work",
                unit_of_work_seconds,
            ),
            commands: catalog.histogram(
                "unit_of_work_commands",
                ["queue", "source"],
                "Messages in a committed unit of work",
                commands,
            ),
            failed_units: catalog.counter(
                "units_of_work_failed",
                ["queue", "cause"],
                "Units of work that were rolled back; their messages are handled again",
            ),
        };
        metrics.preset();
        metrics
    }

    /// What alerts compare with earlier values begins at zero.
    fn preset(&self) {
        for queue in QueueName::ALL.map(QueueName::as_str) {
            for reason in Reason::ALL {
                self.dead_letters.of([queue, reason.as_str()]).inc_by(0);
            }
            for cause in CAUSES {
                self.failed_units.of([queue, cause.as_str()]).inc_by(0);
            }
            self.redelivered.of([queue]).inc_by(0);
            self.interrupted_starts.of([queue]).inc_by(0);
        }
    }

    pub(super) fn redelivered(&self, queue: QueueName, messages: usize) {
        self.redelivered.of([queue.as_str()]).inc_by(messages as u64);
    }

    pub(super) fn interrupted_starts(&self, queue: QueueName, messages: usize) {
        self.interrupted_starts.of([queue.as_str()]).inc_by(messages as u64);
    }

    pub(super) fn unit_of_work(&self, report: &UnitOfWorkReport<'_>) {
        let (queue, source) = (report.queue.as_str(), report.source.as_str());
        match report.result {
            UnitOfWorkResult::Committed => {
                self.unit_of_work.of([queue, source]).observe(report.duration().as_secs_f64());
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 messages")]
                self.commands.of([queue, source]).observe(report.messages.len() as f64);
                self.messages(report.queue, report.source, report.messages);
            }
            UnitOfWorkResult::Failed(cause) => _ = self.failed_units.of([queue, cause.as_str()]).inc(),
        }
    }

    pub(super) fn failure(&self, report: &FailureReport<'_>) {
        self.messages(report.queue, report.source, std::slice::from_ref(&report.message));
    }

    /// Most messages of a unit of work have one type and one outcome: their series are looked up once.
    fn messages(&self, queue: QueueName, source: Source, messages: &[MessageReport<'_>]) {
        let queue = queue.as_str();
        for of_type in messages.chunk_by(|one, other| one.message_type == other.message_type) {
            let [first, ..] = of_type else { continue };
            let handling = self.handling.of([first.message_type]);
            of_type
                .iter()
                .filter_map(|message| message.handler)
                .for_each(|took| handling.observe(took.as_secs_f64()));
            for alike in of_type.chunk_by(|one, other| one.outcome == other.outcome) {
                let Some(outcome) = alike.first().and_then(|message| message.outcome) else { continue };
                let count = alike.len() as u64;
                self.messages
                    .of([queue, first.message_type, source.as_str(), outcome.as_str()])
                    .inc_by(count);
                if let MessageOutcome::Dead(reason) = outcome {
                    self.dead_letters.of([queue, reason.as_str()]).inc_by(count);
                }
            }
        }
    }
}
