//! The faults and operator calls of a round and their order: the same for the same seed.

use std::{fmt::Write as _, time::Duration};

use crate::random::Random;

/// The latest time of a fault within a step.
const MAX_DELAY: Duration = Duration::from_millis(400);
/// The duration of the longest outage.
const LONGEST_OUTAGE: Duration = Duration::from_secs(10);
/// The reasons used as filters.
const REASONS: [&str; 4] = ["rejected", "invalid_message", "unknown_command", "missing_message_id"];
/// The command types used as filters.
const KINDS: [&str; 3] = ["allocate", "change_batch_quantity", "create_batch"];
/// The texts used to search errors and message ids.
const TEXTS: [&str; 4] = ["LATE", "m-1", "batchref", "qty"];

/// A fault and its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// SIGKILL of the process with this index.
    Kill(usize),
    /// SIGTERM of the process with this index.
    Stop(usize),
    /// SIGTERM of both workers at once.
    StopWorkers,
    /// RST on every connection to a server, and new connections are refused.
    Database(Duration),
    Broker(Duration),
    /// Units of work fail with SQLSTATE 53100.
    DiskFull(Duration),
    /// Commits take up to 0.3 s.
    SlowCommits(Duration),
}

/// A subcommand of `allocation dead-letters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subcommand {
    Retry,
    Discard,
    Restore,
    Edit,
}

/// The messages it applies to. A number selects one of several, modulo their count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    One(u32),
    All,
    Reason(&'static str),
    Queue(&'static str),
    Kind(&'static str),
    Text(&'static str),
    Recent,
    Group(u32),
}

/// One call of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) subcommand: Subcommand,
    pub(super) target: Target,
    /// A retry with a rate limit.
    pub(super) rate_limited: bool,
}

/// A fault, and what two operators do at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) after: Duration,
    /// Units of work are delayed, so that more messages wait.
    pub(super) slow: bool,
    pub(super) operators: [Vec<Call>; 2],
    /// How many discarded messages are sent again, the oldest first.
    pub(super) resent: u32,
}

/// The steps of a round. One of them, not the first, has an outage long enough for messages to be returned to the
/// queue repeatedly.
pub(super) fn plan(steps: u32, random: &mut Random) -> Vec<Step> {
    let longest_outage = 1 + random.below(steps - 1);
    let steps = (0..steps).map(|number| {
        let step = step(random);
        if number == longest_outage { Step { fault: Fault::DiskFull(LONGEST_OUTAGE), ..step } } else { step }
    });
    steps.collect()
}

fn step(random: &mut Random) -> Step {
    let resent = if random.percent(50) { 1 + random.below(3) } else { 0 };
    // A message that is sent again is also redelivered if the fault interrupts its delivery.
    let (fault, slow) = if resent > 0 && random.percent(50) {
        (Fault::StopWorkers, true)
    } else {
        (fault(random), random.percent(30))
    };
    let after = random.duration_below(MAX_DELAY);
    let operators = [0, 1].map(|_| (0..random.below(3)).map(|_| call(random)).collect());
    Step { fault, after, slow, operators, resent }
}

fn fault(random: &mut Random) -> Fault {
    let index = |number: u32| usize::from(number % 2 == 1);
    let duration = |random: &mut Random, minimum: u64, range: u64| {
        Duration::from_millis(minimum) + random.duration_below(Duration::from_millis(range))
    };
    match random.below(100) {
        0..8 => Fault::None,
        number @ 8..20 => Fault::Kill(index(number)),
        number @ 20..30 => Fault::Kill(2 + index(number)),
        number @ 30..44 => Fault::Stop(index(number)),
        number @ 44..52 => Fault::Stop(2 + index(number)),
        52..60 => Fault::StopWorkers,
        60..70 => Fault::Database(duration(random, 0, 2500)),
        70..80 => Fault::Broker(duration(random, 0, 1500)),
        80..90 => Fault::DiskFull(duration(random, 1000, 3000)),
        _ => Fault::SlowCommits(duration(random, 500, 1500)),
    }
}

fn call(random: &mut Random) -> Call {
    let subcommand = match random.below(100) {
        0..45 => Subcommand::Retry,
        45..65 => Subcommand::Discard,
        65..80 => Subcommand::Restore,
        _ => Subcommand::Edit,
    };
    let number = random.below(1000);
    let one_of = |texts: &[&'static str]| texts[number as usize % texts.len()];
    let target = match random.below(100) {
        _ if subcommand == Subcommand::Edit => Target::One(number),
        0..40 => Target::One(number),
        40..50 => Target::Reason(one_of(&REASONS)),
        50..60 => Target::Queue(one_of(&["orders", "stock"])),
        60..70 => Target::Kind(one_of(&KINDS)),
        70..80 => Target::Text(one_of(&TEXTS)),
        80..85 => Target::Recent,
        85..95 => Target::Group(number),
        // A discard applies to one message only.
        _ if subcommand == Subcommand::Discard => Target::One(number),
        _ => Target::All,
    };
    Call { subcommand, target, rate_limited: subcommand == Subcommand::Retry && random.percent(20) }
}

/// The plan as text, to compare two runs.
pub(super) fn describe(steps: &[Step]) -> String {
    let mut text = String::new();
    for Step { fault, after, slow, operators, resent } in steps {
        let _ = write!(text, "\n  {fault:?} after {after:?}, {resent} sent again");
        if *slow {
            text.push_str(", slow");
        }
        for calls in operators.iter().filter(|calls| !calls.is_empty()) {
            let calls: Vec<_> =
                calls.iter().map(|call| format!("{:?} {:?}", call.subcommand, call.target)).collect();
            let _ = write!(text, "; {}", calls.join(", "));
        }
    }
    text
}
