//! The unit of work: everything that changes at the end of a delivery, in one transaction.
//!
//! A transaction is one step here. This is valid because it holds locks until the commit: the inbox row of each id
//! (the insert of another transaction waits), the failed message that a marker names (`for update`) and the products.
//! The effect of a concurrent transaction is the same as before or after it. The handler has one of two outcomes, an
//! effect with one event or a rejection. All messages are of one SKU.

use crate::{
    config::{Config, Fault},
    state::{Message, Row, Set, State, Status},
    worker::{DEAD_AFTER_STARTS, Isolation, Phase},
};

impl State {
    /// Handles the next group of a worker and commits. `rejected`: indexes in the group that the handler rejects.
    /// Without a reply the worker does not know whether the commit took effect, and waits as in an outage.
    pub(crate) fn handle(&mut self, config: &Config, worker: u8, rejected: Set, reply: bool) {
        let (group, isolation) = self.group(config, worker);
        for (index, message) in (0..).zip(group.to_vec()) {
            if isolation == Isolation::GiveUp && self.reaches_handler(config, message) {
                self.record_crash_loop(worker, message.id);
            }
            let effects = self.effects.len();
            self.finish(config, message, isolation, rejected.has(index));
            if message.marker.is_none() && self.effects.len() == effects {
                self.record_if_dropped(message);
            }
            if message.redelivered {
                self.starts[usize::from(message.id)] = 0;
                self.history.crashes[usize::from(message.id)] = 0;
            }
            let worker = &mut self.workers[usize::from(worker)];
            if reply {
                worker.finished += 1;
                worker.recorded_starts.remove(message.id);
            }
        }
        let after = &mut self.workers[usize::from(worker)];
        if !after.connected {
            after.phase = Phase::Stopping;
            self.replace_if_stopped(worker);
        } else if !reply {
            after.phase = Phase::Waiting;
        }
    }

    /// Whether the handler gets the message: it is new to the inbox, and not fenced.
    pub(crate) fn reaches_handler(&self, config: &Config, message: Message) -> bool {
        self.inbox[usize::from(message.id)].is_none() && self.passes_fence(config, message)
    }

    /// A copy is handled only if its row is retrying and of its generation. If there is no such row, the marker is not
    /// genuine, and the message is handled as one from a sender.
    fn passes_fence(&self, config: &Config, message: Message) -> bool {
        let Some(marker) = message.marker else { return true };
        let of_copy = |row: &&Row| row.number == marker.row;
        config.fault == Fault::NoGenerationFence
            || self
                .failed
                .iter()
                .find(of_copy)
                .is_none_or(|row| row.status == Status::Retrying && row.generation == marker.generation)
    }

    fn finish(&mut self, config: &Config, message: Message, isolation: Isolation, rejected: bool) {
        let passes = self.passes_fence(config, message);
        let id = usize::from(message.id);
        if message.marker.is_none() && self.is_discarded(message) {
            self.history.redelivered_after_discard.add(message.id);
        }
        match self.inbox[id] {
            None if !passes && config.fault == Fault::FencedCopyEntersInbox => {
                self.inbox[id] = Some(message.body);
            }
            _ if !passes => {}
            None if isolation == Isolation::GiveUp => self.record(config, message, true),
            None if self.stays_overtaken(message) => {}
            None if self.must_wait(config, message) => self.record_waiting(message),
            None if rejected => self.record(config, message, false),
            None => {
                self.inbox[id] = Some(message.body);
                self.overtake(config, message);
                self.outbox.add(u8::try_from(self.effects.len()).expect("there are few messages"));
                self.effects.push(message.id);
                self.resolve(config, message);
            }
            // A retry of a message that another copy handled has no effect.
            Some(body) if body == message.body => {
                if message.marker.is_some() {
                    self.resolve(config, message);
                }
            }
            Some(_) => self.record(config, message, true),
        }
    }

    /// An unfinished start is a crash, or a start in another process that is still running. If that process has lost
    /// its connection, nothing in the database distinguishes it from a crashed one.
    fn record_crash_loop(&mut self, worker: u8, id: u8) {
        let others = (0..).zip(&self.workers).filter(|(index, _)| *index != worker);
        let alive = others.filter(|(_, other)| other.recorded_starts.has(id)).count();
        let crashes = usize::from(self.history.crashes[usize::from(id)]);
        self.history.crash_loop.add(id);
        self.history.unjustified_crash_loop |= crashes + alive < usize::from(DEAD_AFTER_STARTS);
    }

    fn record_if_dropped(&mut self, message: Message) {
        let exists = self.inbox[usize::from(message.id)].is_some()
            || self.failed.iter().any(|row| {
                row.id == message.id
                    && row.body == message.body
                    && (row.is_open() || row.status == Status::Dead)
            });
        self.history.dropped |= !exists;
        let last =
            self.outstanding().filter(|other| other.id == message.id && other.marker.is_none()).count() == 1;
        self.history.dropped_after_discard |=
            !exists && last && self.history.sent_after_discard.has(message.id);
    }
}
