//! The size of a check: which components are included, and how often each disturbance may happen.
//!
//! A disturbance may happen at every step, but only as often as [`Budget`] says. Without this limit the number of
//! states is infinite. The checks are therefore exhaustive up to the stated size, and say nothing beyond it.

/// A fault of the program, to show that the check finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The protocol without a fault.
    None,
    /// An orderly stop cancels and rejects, and the broker returns the messages in a different order.
    ReturnInDifferentOrder,
    /// After a lost subscription the worker subscribes with a smaller prefetch.
    SmallerPrefetchAfterReturn,
    /// A redelivered message of generation 0 records nothing if there is an old row.
    OldRowDropsMessage,
    /// An orderly stop does not revert the starts that the process recorded.
    StartsNotReverted,
    /// A retry copy is handled whatever the status and the generation of its row.
    NoGenerationFence,
    /// The generation fence leaves the inbox row of a copy that it does not handle.
    FencedCopyEntersInbox,
    /// The relay marks a row as published whatever its generation.
    RelayMarksAnyGeneration,
    /// Retention removes a failed message while a copy of it is outstanding.
    RetentionIgnoresCopies,
    /// A new leader skips the rows that the frozen leader has read.
    ClaimedRowsAreSkipped,
    /// The leader removes the rows that it has read before the broker confirmed them.
    RemovedBeforeConfirmed,
    /// A stale leader removes rows.
    StaleLeaderRemoves,
    /// A message that ends releases none that waits for it.
    NothingIsReleased,
    /// A command does not wait for an earlier one with its key that is retried.
    NothingWaits,
    /// An operator retries a dead message although a later command with its key was handled.
    OvertakenIsRetried,
    /// The database is unavailable when the process stops, so the starts cannot be reverted.
    StopWithoutDatabase,
}

/// How often each disturbance may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// The sender publishes a message again, with the same id and body.
    pub(crate) repeats: u8,
    /// A handler rejects a command.
    pub(crate) rejections: u8,
    /// A worker process crashes at an arbitrary step.
    pub(crate) crashes: u8,
    /// A worker receives a stop signal.
    pub(crate) stops: u8,
    /// A unit of work fails because the database is unavailable. The worker waits, then tries again or returns its
    /// messages.
    pub(crate) outages: u8,
    /// A connection to the broker is lost while the process keeps running.
    pub(crate) lost_connections: u8,
    /// A commit takes effect but its reply is lost.
    pub(crate) lost_replies: u8,
    /// An operator acts: retry, discard, restore.
    pub(crate) actions: u8,
    /// An operator edits a dead message, which also retries it.
    pub(crate) edits: u8,
    /// Retention removes an inbox row or an ended failed message.
    pub(crate) removals: u8,
    /// A standby ends the session of a frozen leader, which later continues.
    pub(crate) takeovers: u8,
    /// A relay crashes.
    pub(crate) relay_crashes: u8,
}

/// One configuration of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// The name in the output.
    pub(crate) name: &'static str,
    /// Message ids 0, 1, … are sent in this order; at most [`crate::state::MESSAGES`].
    pub(crate) messages: u8,
    /// Worker processes, at most two.
    pub(crate) workers: u8,
    /// One consumer gets the deliveries, the others are on standby (`queues.single_active_consumer`). Only then is the
    /// order of commands of one line checked: message 0 allocates a line, the last message deallocates it.
    pub(crate) single_active_consumer: bool,
    /// All messages are commands with one key, which are handled in their order, also when they are retried.
    pub(crate) one_key: bool,
    /// Unacknowledged deliveries per subscription (`worker.prefetch`).
    pub(crate) prefetch: u8,
    /// Commands in one unit of work (`worker.max_batch`).
    pub(crate) max_batch: u8,
    /// The attempt after which a message is dead (`retry.max_attempts`).
    pub(crate) max_attempts: u8,
    /// The message that terminates every worker that handles it.
    pub(crate) poison: Option<u8>,
    /// Relays that publish due retries and events: none, or a leader and a standby.
    pub(crate) relays: u8,
    /// States that differ only in the numbers of workers or relays count as one. A trace needs the numbers.
    pub(crate) symmetric: bool,
    /// The limits of the disturbances.
    pub(crate) budget: Budget,
    /// The fault of the program.
    pub(crate) fault: Fault,
}

impl Config {
    /// One worker, one message, no disturbance: the start of every configuration.
    pub(crate) const SMALLEST: Self = Self {
        name: "smallest",
        messages: 1,
        workers: 1,
        single_active_consumer: false,
        one_key: false,
        prefetch: 2,
        max_batch: 1,
        max_attempts: 1,
        poison: None,
        relays: 0,
        symmetric: true,
        budget: Budget {
            repeats: 0,
            rejections: 0,
            crashes: 0,
            stops: 0,
            outages: 0,
            lost_connections: 0,
            lost_replies: 0,
            actions: 0,
            edits: 0,
            removals: 0,
            takeovers: 0,
            relay_crashes: 0,
        },
        fault: Fault::None,
    };

    /// The same configuration with a fault.
    pub(crate) fn with(self, fault: Fault) -> Self {
        Self { fault, symmetric: false, ..self }
    }
}
