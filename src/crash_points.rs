//! Places where a process can be made to kill itself, and mistakes that can be planted, for the chaos tests.
//!
//! `CRASH_AT=worker.after_commit:3` ends the process with SIGKILL at the third passage of that place, and
//! `CRASH_AT=worker.mid_handler@ID` whenever the message of that id is handled; several are separated by commas.
//! `PLANTED_BUG` names a mistake that the tests must notice. Only builds with the feature `chaos` know any of this: in
//! all others a call is nothing, and a release with the feature does not compile.

#[cfg(all(feature = "chaos", not(debug_assertions)))]
compile_error!("with the feature `chaos` the environment can kill the program: it is for debug builds alone");

macro_rules! crash_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place on a path that a message takes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum CrashPoint {
            $($(#[$doc])* $point,)*
        }

        impl CrashPoint {
            /// Every place there is.
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// What `CRASH_AT` calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

crash_points! {
    /// A command was delivered and nothing was done about it.
    WorkerDelivered = "worker.delivered",
    /// Its transaction has begun.
    WorkerBegun = "worker.begun",
    /// The inbox has it, uncommitted.
    WorkerInboxWritten = "worker.inbox_written",
    /// Its handler has run, the reactions have not.
    WorkerMidHandler = "worker.mid_handler",
    /// Some of what it changed is written, uncommitted.
    WorkerMidWrite = "worker.mid_write",
    /// All of it is written, uncommitted.
    WorkerBeforeCommit = "worker.before_commit",
    /// The commit is done.
    WorkerAfterCommit = "worker.after_commit",
    /// The next thing would be the acknowledgement.
    WorkerBeforeAck = "worker.before_ack",
    /// A failure is written to the ledger, uncommitted.
    FailureBeforeCommit = "failure.before_commit",
    /// The ledger has the failure; its delivery is not acknowledged.
    FailureAfterCommit = "failure.after_commit",
    /// What the broker put aside was delivered, and is not in the ledger.
    ArchiveBefore = "archive.before",
    /// It is in the ledger, and not acknowledged.
    ArchiveAfter = "archive.after",
    /// The relay has read a window of events.
    RelayClaimed = "relay.claimed",
    /// They are written to the broker, which has confirmed none.
    RelayPublished = "relay.published",
    /// They are confirmed and still in the outbox.
    RelayConfirmed = "relay.confirmed",
    /// They are out of the outbox.
    RelayRemoved = "relay.removed",
    /// The relay has read retries that are due.
    RetryClaimed = "relay.retry_claimed",
    /// They are written to the broker, which has confirmed none.
    RetryPublished = "relay.retry_published",
    /// They are confirmed, and the ledger does not know.
    RetryConfirmed = "relay.retry_confirmed",
    /// The ledger knows.
    RetryMarked = "relay.retry_marked",
    /// `allocation send` has written commands, and none is confirmed.
    SenderPublished = "sender.published",
    /// What an operator asked for is written, uncommitted.
    OperatorBeforeCommit = "operator.before_commit",
    /// It is committed, and the operator was not told.
    OperatorAfterCommit = "operator.after_commit",
}

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// Deliveries are acknowledged before the commit.
    AckBeforeCommit,
    /// What was published is not removed from the outbox.
    ForgetToRemove,
    /// The inbox is committed in a transaction of its own.
    InboxApart,
    /// What the inbox says of a repeat is not heard.
    IgnoreInbox,
}

impl SeededBug {
    /// Every mistake there is.
    pub const ALL: &'static [Self] =
        &[Self::AckBeforeCommit, Self::ForgetToRemove, Self::InboxApart, Self::IgnoreInbox];

    /// What `PLANTED_BUG` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack_before_commit",
            Self::ForgetToRemove => "forget_to_remove",
            Self::InboxApart => "inbox_apart",
            Self::IgnoreInbox => "ignore_inbox",
        }
    }
}

#[cfg(feature = "chaos")]
pub use armed::{here, here_with, planted};
#[cfg(not(feature = "chaos"))]
pub use unarmed::{here, here_with, planted};

#[cfg(not(feature = "chaos"))]
mod unarmed {
    use super::{CrashPoint, SeededBug};

    /// Nothing.
    #[inline]
    pub const fn here(_: CrashPoint) {}

    /// Nothing.
    #[inline]
    pub const fn here_with(_: CrashPoint, _: &str) {}

    /// Never.
    #[inline]
    #[must_use]
    pub const fn planted(_: SeededBug) -> bool {
        false
    }
}

#[cfg(feature = "chaos")]
mod armed {
    use std::{
        io::Write as _,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::{CrashPoint, SeededBug};

    /// When a process is to end at a point.
    enum Trigger {
        /// At this passage, counted from 1.
        Passage(u32),
        /// Whenever it is about this message.
        With(String),
    }

    static ORDERS: LazyLock<Vec<(CrashPoint, Trigger)>> =
        LazyLock::new(|| orders(&std::env::var("CRASH_AT").unwrap_or_default()));
    static PASSED: [AtomicU32; CrashPoint::ALL.len()] = [const { AtomicU32::new(0) }; CrashPoint::ALL.len()];
    static BUG: LazyLock<String> = LazyLock::new(|| std::env::var("PLANTED_BUG").unwrap_or_default());

    /// Ends the process if this is the passage at which it is to end.
    pub fn here(point: CrashPoint) {
        pass(point, None);
    }

    /// The same where it is known which message is meant.
    pub fn here_with(point: CrashPoint, message_id: &str) {
        pass(point, Some(message_id));
    }

    /// Whether this process is to make the mistake.
    #[must_use]
    pub fn planted(bug: SeededBug) -> bool {
        *BUG == bug.name()
    }

    fn pass(point: CrashPoint, message_id: Option<&str>) {
        let passed = PASSED[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let due = |when: &Trigger| match when {
            Trigger::Passage(nth) => *nth == passed,
            Trigger::With(id) => Some(id.as_str()) == message_id,
        };
        if ORDERS.iter().any(|(ordered, when)| *ordered == point && due(when)) {
            die(point, passed);
        }
    }

    /// Nothing of this process goes on after this: the signal ends all threads, and this one waits for it.
    fn die(point: CrashPoint, passed: u32) -> ! {
        let _ = writeln!(std::io::stderr().lock(), "crash point {} passed {passed}", point.name());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }

    /// A wrong order would make a test pass that tested nothing, so it ends the process as well.
    fn orders(text: &str) -> Vec<(CrashPoint, Trigger)> {
        text.split(',').map(str::trim).filter(|order| !order.is_empty()).map(order).collect()
    }

    fn order(text: &str) -> (CrashPoint, Trigger) {
        let (name, when) = match (text.split_once('@'), text.split_once(':')) {
            (Some((name, id)), _) => (name, Some(Trigger::With(id.to_owned()))),
            (None, Some((name, nth))) => (name, nth.parse().ok().map(Trigger::Passage)),
            (None, None) => (text, Some(Trigger::Passage(1))),
        };
        let point = CrashPoint::ALL.iter().find(|point| point.name() == name);
        let (Some(point), Some(when)) = (point, when) else {
            let _ = writeln!(std::io::stderr().lock(), "CRASH_AT: {text:?} is no crash point");
            std::process::exit(2);
        };
        (*point, when)
    }
}
