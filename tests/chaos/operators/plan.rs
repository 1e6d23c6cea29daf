//! Which faults and which operator's calls, in which order: the same for the same seed.

use std::{fmt::Write as _, time::Duration};

use crate::random::Random;

/// Messages are on their way for less than this when the fault comes.
const LATEST: Duration = Duration::from_millis(400);
/// How long the longest outage lasts.
const LONG: Duration = Duration::from_secs(10);
/// The reasons that an operator filters by.
const REASONS: [&str; 4] = ["rejected", "invalid_message", "unknown_command", "missing_message_id"];
/// The command types that an operator filters by.
const KINDS: [&str; 3] = ["allocate", "change_batch_quantity", "create_batch"];
/// The texts that an operator searches for, in errors and message ids.
const TEXTS: [&str; 4] = ["LATE", "m-1", "batchref", "qty"];

/// One thing that goes wrong, for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// SIGKILL of a process, by its place.
    Kill(usize),
    /// SIGTERM of a process, by its place.
    Stop(usize),
    /// SIGTERM of both workers at once.
    StopWorkers,
    /// RST on every connection to a server, and newcomers are refused for so long.
    Database(Duration),
    Broker(Duration),
    /// Units of work are refused with SQLSTATE 53100.
    DiskFull(Duration),
    /// Commits take up to 0.3 s.
    LateCommits(Duration),
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Retry,
    Discard,
    Restore,
    Edit,
}

/// With which messages; where the number says one of several, it is taken modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
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
    pub(super) what: What,
    pub(super) which: Which,
    /// A retry at a rate.
    pub(super) slowly: bool,
}

/// A fault, and what two operators do at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) after: Duration,
    /// Units of work take longer, so that more messages wait for theirs.
    pub(super) slow: bool,
    pub(super) operators: [Vec<Call>; 2],
    /// Discarded messages that are sent again by their sender: the first and so many others.
    pub(super) sent_again: u32,
}

/// So many steps; one of them, not the first, is an outage so long that messages are handed back again and again.
pub(super) fn plan(steps: u32, random: &mut Random) -> Vec<Step> {
    let long = 1 + random.below(steps - 1);
    let steps = (0..steps).map(|number| {
        let step = step(random);
        if number == long { Step { fault: Fault::DiskFull(LONG), ..step } } else { step }
    });
    steps.collect()
}

fn step(random: &mut Random) -> Step {
    let sent_again = if random.percent(50) { 1 + random.below(3) } else { 0 };
    // What is sent again is delivered again, if the fault comes before its turn.
    let (fault, slow) = if sent_again > 0 && random.percent(50) {
        (Fault::StopWorkers, true)
    } else {
        (fault(random), random.percent(30))
    };
    let after = random.moment(LATEST);
    let operators = [0, 1].map(|_| (0..random.below(3)).map(|_| call(random)).collect());
    Step { fault, after, slow, operators, sent_again }
}

fn fault(random: &mut Random) -> Fault {
    let place = |number: u32| usize::from(number % 2 == 1);
    let lasts = |random: &mut Random, from: u64, more: u64| {
        Duration::from_millis(from) + random.moment(Duration::from_millis(more))
    };
    match random.below(100) {
        0..8 => Fault::None,
        number @ 8..20 => Fault::Kill(place(number)),
        number @ 20..30 => Fault::Kill(2 + place(number)),
        number @ 30..44 => Fault::Stop(place(number)),
        number @ 44..52 => Fault::Stop(2 + place(number)),
        52..60 => Fault::StopWorkers,
        60..70 => Fault::Database(lasts(random, 0, 2500)),
        70..80 => Fault::Broker(lasts(random, 0, 1500)),
        80..90 => Fault::DiskFull(lasts(random, 1000, 3000)),
        _ => Fault::LateCommits(lasts(random, 500, 1500)),
    }
}

fn call(random: &mut Random) -> Call {
    let what = match random.below(100) {
        0..45 => What::Retry,
        45..65 => What::Discard,
        65..80 => What::Restore,
        _ => What::Edit,
    };
    let number = random.below(1000);
    let one_of = |texts: &[&'static str]| texts[number as usize % texts.len()];
    let which = match random.below(100) {
        _ if what == What::Edit => Which::One(number),
        0..40 => Which::One(number),
        40..50 => Which::Reason(one_of(&REASONS)),
        50..60 => Which::Queue(one_of(&["orders", "stock"])),
        60..70 => Which::Kind(one_of(&KINDS)),
        70..80 => Which::Text(one_of(&TEXTS)),
        80..85 => Which::Recent,
        85..95 => Which::Group(number),
        // Not everything is discarded at once.
        _ if what == What::Discard => Which::One(number),
        _ => Which::All,
    };
    Call { what, which, slowly: what == What::Retry && random.percent(20) }
}

/// The plan in a few words, so that two runs can be compared.
pub(super) fn describe(steps: &[Step]) -> String {
    let mut text = String::new();
    for Step { fault, after, slow, operators, sent_again } in steps {
        let _ = write!(text, "\n  {fault:?} after {after:?}, {sent_again} sent again");
        if *slow {
            text.push_str(", slow");
        }
        for calls in operators.iter().filter(|calls| !calls.is_empty()) {
            let calls: Vec<_> =
                calls.iter().map(|call| format!("{:?} {:?}", call.what, call.which)).collect();
            let _ = write!(text, "; {}", calls.join(", "));
        }
    }
    text
}
