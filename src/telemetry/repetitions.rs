//! Repeated log lines. Senders and clients can cause any number of them: the first is written at once, and every 30 seconds one
//! line says how often it was repeated since.

use std::{
    collections::HashMap,
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    error,
    field::{Field, Visit},
    info, warn,
};
use tracing_subscriber::layer::{Context, Filter};

/// The time between two lines about the same repetitions.
const PERIOD: Duration = Duration::from_secs(30);
/// How often due lines are looked for.
const TICK: Duration = Duration::from_secs(1);
/// The number of kinds of lines that are counted separately. Further ones are one kind for each place in the code.
const MAX_KINDS: usize = 1_000;
/// The target of the lines about repetitions, which are not counted themselves.
const TARGET: &str = "allocation::repetitions";
/// Fields that differ although the cause is the same.
const OF_ONE_MESSAGE: [&str; 4] = ["message_id", "sku", "trace_id", "peer"];
/// The changes in the state of a server are logged; none of them is a repetition.
const STATE_OF_A_SERVER: &str = "dependency";

/// Counts repeated lines about failures: warnings, errors, and lines with the field `error`. Clones share their counts.
#[derive(Clone, Default)]
pub(super) struct Repetitions(Arc<Mutex<HashMap<Kind, Repeated>>>);

/// Lines of one kind have the same cause.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    /// The group of failed messages; without one, the texts of the fields without digits.
    cause: String,
}

struct Repeated {
    since: Instant,
    count: u64,
    line: Line,
}

/// What the lines of one kind have in common.
#[derive(Clone)]
struct Line {
    level: Level,
    message: String,
    queue: Option<String>,
    kind: Option<String>,
    group: Option<String>,
    reason: Option<String>,
    error: Option<String>,
}

impl Repetitions {
    /// A line was logged. True if it is to be written.
    fn admits(&self, kind: Kind, line: Line, now: Instant) -> bool {
        let mut kinds = self.kinds();
        if kinds.is_empty() {
            let repetitions = self.clone();
            thread::spawn(move || repetitions.log_until_none_is_counted());
        }
        let is_known = kinds.len() < MAX_KINDS || kinds.contains_key(&kind);
        let kind = if is_known { kind } else { Kind { cause: String::new(), ..kind } };
        if let Some(repeated) = kinds.get_mut(&kind) {
            repeated.count += 1;
            return false;
        }
        kinds.insert(kind, Repeated { since: now, count: 0, line });
        true
    }

    fn log_until_none_is_counted(&self) {
        loop {
            thread::sleep(TICK);
            self.due(Instant::now()).iter().for_each(log);
            if self.kinds().is_empty() {
                return;
            }
        }
    }

    /// The lines whose period is over. What was not repeated is forgotten.
    fn due(&self, now: Instant) -> Vec<(Line, u64)> {
        let mut due = Vec::new();
        self.kinds().retain(|_, repeated| {
            if now.saturating_duration_since(repeated.since) < PERIOD {
                return true;
            }
            let count = std::mem::take(&mut repeated.count);
            if count > 0 {
                due.push((repeated.line.clone(), count));
            }
            repeated.since = now;
            count > 0
        });
        due
    }

    /// Logs what was repeated and is not logged yet.
    pub(super) fn log_all(&self) {
        let kinds = std::mem::take(&mut *self.kinds());
        let repeated = kinds.into_values().filter(|repeated| repeated.count > 0);
        repeated.for_each(|repeated| log(&(repeated.line, repeated.count)));
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Kind, Repeated>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log((line, count): &(Line, u64)) {
    let Line { level, message, queue, kind, group, reason, error } = line;
    let (queue, kind, group) = (queue.as_deref(), kind.as_deref(), group.as_deref());
    let (reason, error, repeated) = (reason.as_deref(), error.as_deref(), *count);
    macro_rules! log {
        ($macro:ident) => {
            $macro!(target: TARGET, queue, "type" = kind, group, reason, error, repeated, "{message}")
        };
    }
    match *level {
        Level::ERROR => log!(error),
        Level::WARN => log!(warn),
        _ => log!(info),
    }
}

impl<S: Subscriber> Filter<S> for Repetitions {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let fields = metadata.fields();
        let is_failure = *metadata.level() <= Level::WARN || fields.field("error").is_some();
        let is_written = !is_failure
            || *metadata.level() > Level::INFO
            || metadata.target() == TARGET
            || fields.field(STATE_OF_A_SERVER).is_some();
        if is_written {
            return true;
        }
        let mut texts = Texts::new(*metadata.level());
        event.record(&mut texts);
        let Texts { line, cause } = texts;
        let cause = line.group.clone().unwrap_or(cause);
        self.admits(Kind { place: metadata.callsite(), cause }, line, Instant::now())
    }
}

/// Reads the texts of an event.
struct Texts {
    line: Line,
    cause: String,
}

impl Texts {
    fn new(level: Level) -> Self {
        let line = Line {
            level,
            message: String::new(),
            queue: None,
            kind: None,
            group: None,
            reason: None,
            error: None,
        };
        Self { line, cause: String::new() }
    }

    fn add(&mut self, field: &Field, text: String) {
        if OF_ONE_MESSAGE.contains(&field.name()) {
            return;
        }
        self.cause.extend(text.chars().filter(|character| !character.is_ascii_digit()));
        self.cause.push('\n');
        match field.name() {
            "message" => self.line.message = text,
            "queue" => self.line.queue = Some(text),
            "type" => self.line.kind = Some(text),
            "group" => self.line.group = Some(text),
            "reason" => self.line.reason = Some(text),
            "error" => self.line.error = Some(text),
            _ => {}
        }
    }
}

impl Visit for Texts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string does not fail.
        _ = write!(text, "{value:?}");
        self.add(field, text);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::{debug, subscriber::with_default};
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

    use super::*;

    /// The lines that were written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Logs, moves the time on, and returns the lines that were written.
    fn logged(log: impl FnOnce(&Repetitions)) -> Vec<String> {
        let (repetitions, written) = (Repetitions::default(), Written::default());
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_filter(repetitions.clone());
        with_default(tracing_subscriber::registry().with(lines), || log(&repetitions));
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        written.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn after(periods: u32) -> Instant {
        Instant::now() + PERIOD * periods
    }

    fn failed(message_id: &str, group: &str, error: &str) {
        warn!(queue = "orders", message_id, group, error, "failed");
    }

    #[test]
    fn the_first_line_is_written_and_repetitions_once_in_a_period() {
        let lines = logged(|repetitions| {
            for number in 1..=4 {
                failed(&format!("m{number}"), "g1", &format!("Invalid sku S{number}"));
            }
            failed("m5", "g2", "no stock");
            assert_eq!(repetitions.due(Instant::now()).len(), 0, "the period is not over");
            repetitions.due(after(1)).iter().for_each(log);
            failed("m6", "g1", "Invalid sku S1");
            repetitions.due(after(3)).iter().for_each(log);
            repetitions.due(after(5)).iter().for_each(log);
            assert!(repetitions.kinds().is_empty(), "what is not repeated is forgotten");
            failed("m7", "g1", "Invalid sku S1");
        });
        let first = |id: &str, group: &str, error: &str| {
            format!(r#"WARN failed queue="orders" message_id="{id}" group="{group}" error="{error}""#)
        };
        let repeated = |count: u64| {
            format!(r#"WARN failed queue="orders" group="g1" error="Invalid sku S1" repeated={count}"#)
        };
        let expected = [
            first("m1", "g1", "Invalid sku S1"),
            first("m5", "g2", "no stock"),
            repeated(3),
            repeated(1),
            first("m7", "g1", "Invalid sku S1"),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn lines_without_a_group_are_compared_by_their_texts_without_digits() {
        let lines = logged(|repetitions| {
            for (sku, reason) in [("A", "queue q1 is full"), ("B", "queue q2 is full"), ("A", "refused")] {
                warn!(outbox_id = 7, sku, reason, "parked");
            }
            repetitions.log_all();
            repetitions.log_all();
        });
        assert_eq!(
            lines,
            [
                r#"WARN parked outbox_id=7 sku="A" reason="queue q1 is full""#,
                r#"WARN parked outbox_id=7 sku="A" reason="refused""#,
                r#"WARN parked reason="queue q1 is full" repeated=1"#,
            ]
        );
    }

    #[test]
    fn other_lines_are_all_written() {
        let lines = logged(|_| {
            for _ in 0..2 {
                info!("started");
                debug!(error = "e", "postponed");
                warn!(dependency = "database", error = "e", "unavailable");
            }
        });
        assert_eq!(lines.len(), 6, "{lines:?}");
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let lines = logged(|repetitions| {
            for number in 0..2 * MAX_KINDS {
                let digits = number.to_string();
                let letters: String = digits.chars().map(|digit| (digit as u8 + 17) as char).collect();
                failed("m", &letters, "e");
            }
            assert_eq!(repetitions.kinds().len(), MAX_KINDS + 1);
            repetitions.log_all();
        });
        assert_eq!(lines.len(), MAX_KINDS + 2, "one line for all others, and one for how many");
    }
}
