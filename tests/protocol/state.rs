//! The state of the whole system: broker, worker processes, tables of the database, relays and subscriber.
//!
//! Types are as small as possible, because a check holds hundreds of thousands of states. The fields of the history
//! are not part of the protocol: they record what the properties need.

use crate::{broker::Queue, config::Budget, relay::Relay, worker::Worker};

/// The largest number of message ids.
pub(crate) const MESSAGES: usize = 3;

/// The body of a message. The hash of type and body is part of the key of a failed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Body {
    /// As its sender published it.
    Sent,
    /// As an operator edited it.
    Edited,
}

/// What a retry copy carries: the row that it was made from. The secret that prevents forgery is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Marker {
    pub(crate) row: u8,
    pub(crate) generation: u8,
}

/// A message in the queue or in a worker. Without a marker it is of generation 0: a sender published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Message {
    pub(crate) id: u8,
    pub(crate) body: Body,
    pub(crate) marker: Option<Marker>,
    pub(crate) redelivered: bool,
}

impl Message {
    pub(crate) fn is_copy_of(self, row: u8) -> bool {
        self.marker.is_some_and(|marker| marker.row == row)
    }
}

/// The status of a failed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Status {
    Retrying,
    Waiting,
    Resolved,
    Dead,
    Discarded,
}

/// A row of `failed_messages`, unique by message id and body. There is one queue, so it is no part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row {
    /// The identity column. A row that is made after another was removed has another number.
    pub(crate) number: u8,
    pub(crate) id: u8,
    pub(crate) body: Body,
    pub(crate) status: Status,
    pub(crate) attempts: u8,
    pub(crate) generation: u8,
    /// A copy of this generation was published.
    pub(crate) published: bool,
    /// A later command with the same key was handled while this one was dead or discarded (`overtaken_by`).
    pub(crate) overtaken: bool,
}

impl Row {
    /// Whether the program handles the message without an operator.
    pub(crate) fn is_open(self) -> bool {
        matches!(self.status, Status::Retrying | Status::Waiting)
    }
}

/// A set of message ids or of event sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Set(pub(crate) u8);

impl Set {
    pub(crate) fn has(self, member: u8) -> bool {
        self.0 & (1 << member) != 0
    }

    pub(crate) fn add(&mut self, member: u8) {
        self.0 |= 1 << member;
    }

    pub(crate) fn remove(&mut self, member: u8) {
        self.0 &= !(1 << member);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The smallest member.
    pub(crate) fn first(self) -> Option<u8> {
        (0..8).find(|&member| self.has(member))
    }

    pub(crate) fn members(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |&member| self.has(member))
    }
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    // The broker.
    pub(crate) queue: Queue,
    /// With a single active consumer, the worker that gets the deliveries, and its prefetch.
    pub(crate) active: Option<(u8, u8)>,
    /// Events that arrived at the subscriber at least once.
    pub(crate) arrived: Set,

    // The processes.
    pub(crate) workers: Vec<Worker>,
    pub(crate) relays: Vec<Relay>,
    pub(crate) leader: u8,
    /// The row and the generation that an operator sees in an editor.
    pub(crate) shown: Option<Marker>,

    // The database.
    pub(crate) inbox: [Option<Body>; MESSAGES],
    pub(crate) failed: Vec<Row>,
    /// The next value of the identity column of `failed_messages`.
    pub(crate) next_row: u8,
    /// Unfinished starts of redelivered messages (`message_starts`).
    pub(crate) starts: [u8; MESSAGES],
    /// The ids of the handled messages in the order of their commits. The n-th has the event with sequence n.
    pub(crate) effects: Vec<u8>,
    /// Sequences of the events that are not removed yet.
    pub(crate) outbox: Set,

    pub(crate) remaining: Budget,
    pub(crate) history: History,
}

/// Past events, for the properties only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct History {
    /// How often each message was sent.
    pub(crate) sent: [u8; MESSAGES],
    /// Messages with a failed attempt.
    pub(crate) failed: Set,
    /// Crashes of a process between the recorded start of a message and its end, since its last end.
    pub(crate) crashes: [u8; MESSAGES],
    /// Messages that retention removed from the inbox or from the failed messages.
    pub(crate) removed: Set,
    /// Messages that were discarded without an effect, with no delivery of generation 0 outstanding, and that were not
    /// restored or sent again since.
    pub(crate) discarded: Set,
    /// A delivery of generation 0 ended without an effect and without a failed message that is retrying or dead.
    pub(crate) dropped: bool,
    /// The same, and it was the only delivery of a message that was sent after a discard.
    pub(crate) dropped_after_discard: bool,
    /// Messages that were sent while their failed message was discarded.
    pub(crate) sent_after_discard: Set,
    /// A message is dead as `crash_loop` although fewer processes crashed with it or still hold it.
    pub(crate) unjustified_crash_loop: bool,
    /// Messages that are or were dead as `crash_loop`.
    pub(crate) crash_loop: Set,
    /// Discarded messages that were sent again or redelivered, and then handled.
    pub(crate) handled_after_discard: Set,
    /// Discarded messages that were redelivered: they are treated like messages that were sent again.
    pub(crate) redelivered_after_discard: Set,
}

impl State {
    /// Deliveries that the broker has not seen acknowledged.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = &Message> {
        let unacknowledged = self.workers.iter().filter(|worker| worker.connected);
        self.queue.iter().chain(unacknowledged.flat_map(|worker| &worker.held))
    }

    /// Whether a copy of a row can still reach a unit of work.
    pub(crate) fn copy_outstanding(&self, row: u8) -> bool {
        let held = self.workers.iter().flat_map(|worker| &worker.held);
        self.queue.iter().chain(held).any(|message| message.is_copy_of(row))
            || self.relays.iter().any(|relay| relay.holds_copy_of(row))
    }

    /// Sorts the workers and the relays, so that states that differ only in their numbers become equal.
    pub(crate) fn sort_processes(&mut self) {
        if self.workers.len() == 2 && self.workers[1] < self.workers[0] {
            self.workers.swap(0, 1);
            self.active = self.active.map(|(worker, prefetch)| (1 - worker, prefetch));
        }
        if self.leader == 1 {
            self.relays.swap(0, 1);
            self.leader = 0;
        }
    }

    /// Whether a delivery of generation 0 can still reach a unit of work.
    pub(crate) fn first_delivery_outstanding(&self, id: u8) -> bool {
        let held = self.workers.iter().flat_map(|worker| &worker.held);
        self.queue.iter().chain(held).any(|message| message.id == id && message.marker.is_none())
    }
}
