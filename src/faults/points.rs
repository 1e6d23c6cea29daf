//! The crash points and the seeded bugs of the chaos tests.

macro_rules! named {
    ($(#[$enum_doc:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $enum {
            $($(#[$doc])* $variant,)*
        }

        impl $enum {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

named! {
    /// A point on the path of a message where a process can be made to crash.
    CrashPoint {
        /// A command was delivered; its handling has not begun.
        WorkerDelivered = "worker.delivered",
        /// A transaction has begun.
        WorkerBegun = "worker.begun",
        /// The inbox rows are written and not committed.
        WorkerInboxWritten = "worker.inbox_written",
        /// A handler has run; its reactions have not.
        WorkerMidHandler = "worker.mid_handler",
        /// A transaction is committed.
        WorkerAfterCommit = "worker.after_commit",
        /// Commands have outcomes and are not acknowledged.
        WorkerBeforeAck = "worker.before_ack",
        /// A failed attempt is committed.
        FailureAfterCommit = "failure.after_commit",
        /// A dead letter was delivered; it is not recorded.
        ArchiveBefore = "archive.before",
        /// A dead letter is recorded and not acknowledged.
        ArchiveAfter = "archive.after",
        /// The relay has read events; none is published.
        RelayClaimed = "relay.claimed",
        /// The events are confirmed and still in the outbox.
        RelayConfirmed = "relay.confirmed",
        /// The events are removed from the outbox.
        RelayRemoved = "relay.removed",
        /// The relay has read due retries; none is published.
        RetryClaimed = "relay.retry_claimed",
        /// The retries are confirmed; this is not recorded.
        RetryConfirmed = "relay.retry_confirmed",
        /// The publication of the retries is recorded.
        RetryMarked = "relay.retry_marked",
        /// An operator action is committed; its result is not reported.
        OperatorAfterCommit = "operator.after_commit",
    }
}

named! {
    /// A bug that the chaos tests must detect.
    SeededBug {
        /// Deliveries are acknowledged before their commit.
        AckBeforeCommit = "ack_before_commit",
        /// Published events are not removed from the outbox.
        ForgetToRemove = "forget_to_remove",
        /// The inbox rows are committed in a transaction of their own.
        InboxApart = "inbox_apart",
        /// The inbox is not checked for duplicates.
        IgnoreInbox = "ignore_inbox",
        /// A publication of events never ends.
        RelayDeadlock = "relay_deadlock",
    }
}
