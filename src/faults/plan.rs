//! The faults of this process, read from its environment.

use std::{
    io::Write as _,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::points::{CrashPoint, SeededBug};

#[cfg(not(debug_assertions))]
compile_error!("the feature `chaos` lets the environment crash the program: it is for debug builds only");

/// The variable with the crash points.
const CRASH_AT: &str = "CRASH_AT";
/// The variable with the seeded bug.
const SEEDED_BUG: &str = "SEEDED_BUG";

static CRASHES: LazyLock<Vec<(CrashPoint, Trigger)>> =
    LazyLock::new(|| read_crashes(&std::env::var(CRASH_AT).unwrap_or_default()));
static PASSED: [AtomicU32; CrashPoint::ALL.len()] = [const { AtomicU32::new(0) }; CrashPoint::ALL.len()];
static BUG: LazyLock<String> = LazyLock::new(|| std::env::var(SEEDED_BUG).unwrap_or_default());

/// When a process crashes at a crash point.
enum Trigger {
    /// When it passes the point for the n-th time.
    Passage(u32),
    /// When it handles the message with this id.
    Message(String),
}

/// Crashes the process if it is to crash at this passage of the point.
pub(super) fn pass(point: CrashPoint) {
    pass_with(point, None);
}

/// The same, for the message with this id.
pub(super) fn pass_with(point: CrashPoint, message_id: Option<&str>) {
    let passed = PASSED[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
    let is_due = |trigger: &Trigger| match trigger {
        Trigger::Passage(number) => *number == passed,
        Trigger::Message(id) => Some(id.as_str()) == message_id,
    };
    if CRASHES.iter().any(|(at, trigger)| *at == point && is_due(trigger)) {
        crash(point, passed);
    }
}

/// Whether the process has this bug.
pub(super) fn has_bug(bug: SeededBug) -> bool {
    *BUG == bug.name()
}

/// Ends the process with SIGKILL. The signal ends all threads; this one waits for it.
fn crash(point: CrashPoint, passed: u32) -> ! {
    let _ = writeln!(std::io::stderr().lock(), "crash point {} passed {passed}", point.name());
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

fn read_crashes(text: &str) -> Vec<(CrashPoint, Trigger)> {
    text.split(',').map(str::trim).filter(|crash| !crash.is_empty()).map(read_crash).collect()
}

/// An invalid value ends the process: the test that set it would otherwise test nothing.
fn read_crash(text: &str) -> (CrashPoint, Trigger) {
    let (name, trigger) = match (text.split_once('@'), text.split_once(':')) {
        (Some((name, id)), _) => (name, Some(Trigger::Message(id.to_owned()))),
        (None, Some((name, number))) => (name, number.parse().ok().map(Trigger::Passage)),
        (None, None) => (text, Some(Trigger::Passage(1))),
    };
    let point = CrashPoint::ALL.iter().find(|point| point.name() == name);
    let (Some(point), Some(trigger)) = (point, trigger) else {
        let _ = writeln!(std::io::stderr().lock(), "{CRASH_AT}: {text:?} is not a crash point");
        std::process::exit(2);
    };
    (*point, trigger)
}
