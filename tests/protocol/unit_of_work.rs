//! The unit of work: everything that the end of a delivery changes, in one transaction.
//!
//! A transaction is one step here. This is valid because it holds locks until the commit: the inbox row of each id (the
//! insert of another transaction waits), the failed message that a marker names (`for update`) and the products. What
//! another transaction does meanwhile is as if it came before or after.
//! The handler has one of two outcomes, an effect with one event or a rejection. All messages are of one SKU.

use crate::{
    config::{Config, Fault},
    state::{Message, Row, Set, State, Status},
    worker::{DEAD_AFTER_STARTS, Isolation, Phase},
};

impl State {
    /// Handles the next group of a worker and commits. `rejected`: places in the group that the handler rejects.
    /// Without an answer the worker does not know whether the commit took effect, and waits as in an outage.
    pub(crate) fn handle(&mut self, config: &Config, worker: u8, rejected: Set, answer: bool) {
        let (group, isolation) = self.group(config, worker);
        for (place, message) in (0..).zip(group.to_vec()) {
            if isolation == Isolation::GiveUp && self.reaches_handler(config, message) {
                self.note_crash_loop(worker, message.id);
            }
            let effects = self.effects.len();
            self.finish(config, message, isolation, rejected.has(place));
            if message.marker.is_none() && self.effects.len() == effects {
                self.note_if_swallowed(message);
            }
            if message.redelivered {
                self.starts[usize::from(message.id)] = 0;
                self.history.deaths[usize::from(message.id)] = 0;
            }
            let worker = &mut self.workers[usize::from(worker)];
            if answer {
                worker.finished += 1;
                worker.counted.remove(message.id);
            }
        }
        let after = &mut self.workers[usize::from(worker)];
        if !after.connected {
            after.phase = Phase::Ending;
            self.replace_if_ended(worker);
        } else if !answer {
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
        let inbox = &mut self.inbox[usize::from(message.id)];
        match *inbox {
            None if !passes && config.fault == Fault::FencedCopyEntersInbox => *inbox = Some(message.body),
            _ if !passes => {}
            None if isolation == Isolation::GiveUp => self.record(config, message, true),
            None if rejected => self.record(config, message, false),
            None => {
                *inbox = Some(message.body);
                self.outbox.add(u8::try_from(self.effects.len()).expect("there are few messages"));
                self.effects.push(message.id);
                self.resolve(config, message);
            }
            // A retry of what another copy did has nothing left to do.
            Some(body) if body == message.body => {
                if message.marker.is_some() {
                    self.resolve(config, message);
                }
            }
            Some(_) => self.record(config, message, true),
        }
    }

    /// A start without an end is a death, or a start in another process that is still alive. If that one has lost its
    /// connection, nothing in the database distinguishes it from a dead one.
    fn note_crash_loop(&mut self, worker: u8, id: u8) {
        let others = (0..).zip(&self.workers).filter(|(place, _)| *place != worker);
        let alive = others.filter(|(_, other)| other.counted.has(id)).count();
        let deaths = usize::from(self.history.deaths[usize::from(id)]);
        self.history.crash_loop.add(id);
        self.history.unjust |= deaths + alive < usize::from(DEAD_AFTER_STARTS);
    }

    fn note_if_swallowed(&mut self, message: Message) {
        let known = self.inbox[usize::from(message.id)].is_some()
            || self.failed.iter().any(|row| {
                row.id == message.id
                    && row.body == message.body
                    && matches!(row.status, Status::Retrying | Status::Dead)
            });
        self.history.swallowed |= !known;
        let last =
            self.outstanding().filter(|other| other.id == message.id && other.marker.is_none()).count() == 1;
        self.history.swallowed_after_discard |=
            !known && last && self.history.sent_after_discard.has(message.id);
    }
}
