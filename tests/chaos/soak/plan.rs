//! The faults of a round, their order and timing: the same for the same seed.

use std::{fmt::Write as _, time::Duration};

use crate::{arguments::Size, random::Random};

/// The latest time of a fault after the first handled command.
const MAX_DELAY: Duration = Duration::from_millis(40);

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL of one of the two workers.
    KillWorker(usize),
    /// SIGKILL of both workers at once.
    KillWorkers,
    /// SIGKILL of the leading relay.
    KillRelay,
    /// SIGKILL of a backend: the server drops every session and recovers.
    CrashBackend,
    /// SIGKILL of the postmaster.
    CrashPostmaster,
    /// SIGKILL of the broker.
    KillBroker,
    /// An orderly restart of the broker.
    RestartBroker,
    /// RST on every connection between the processes and a server.
    CutDatabase,
    CutBroker,
}

/// A fault, and the commands during which it is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) commands: usize,
    /// The time after the first handled command.
    pub(super) after: Duration,
}

/// All faults of one round, in a random order.
pub(super) fn plan(size: Size, random: &mut Random) -> Vec<Step> {
    let mut faults = Vec::new();
    let mut kills = size.kills;
    while kills > 0 {
        let fault = match random.below(100) {
            0..30 => Fault::KillRelay,
            30..40 if kills > 1 => Fault::KillWorkers,
            other => Fault::KillWorker(usize::from(other % 2 == 0)),
        };
        kills -= if fault == Fault::KillWorkers { 2 } else { 1 };
        faults.push(fault);
    }
    for crash in 0..size.database_crashes {
        faults.push(if crash % 5 == 4 { Fault::CrashPostmaster } else { Fault::CrashBackend });
    }
    for crash in 0..size.broker_crashes {
        faults.push(if crash % 3 == 2 { Fault::RestartBroker } else { Fault::KillBroker });
    }
    for cut in 0..size.kills.div_ceil(10) {
        faults.push(if cut % 2 == 0 { Fault::CutDatabase } else { Fault::CutBroker });
    }
    random.shuffle(&mut faults);
    let commands = size.commands.div_ceil(faults.len().max(1));
    faults
        .into_iter()
        .map(|fault| Step { fault, commands, after: random.duration_below(MAX_DELAY) })
        .collect()
}

/// The plan as one line of letters, to compare two runs.
pub(super) fn describe(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let letter = match step.fault {
            Fault::KillWorker(0) => 'a',
            Fault::KillWorker(_) => 'b',
            Fault::KillWorkers => 'w',
            Fault::KillRelay => 'r',
            Fault::CrashBackend => 'p',
            Fault::CrashPostmaster => 'P',
            Fault::KillBroker => 'Q',
            Fault::RestartBroker => 'q',
            Fault::CutDatabase => 'd',
            Fault::CutBroker => 'm',
        };
        let _ = write!(text, "{letter}");
    }
    text
}
