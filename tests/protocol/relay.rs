//! The relay: due retries to the queue, events to the subscriber, and a leader that is unresponsive and continues
//! later.
//!
//! The standby becomes leader when it ends the session of an unresponsive leader. The stale leader keeps what it has
//! read and may still publish it; on its terminated session it cannot remove or mark anything. Order holds within a
//! SKU, so one SKU is modelled. Not modelled: rejected and parked events, several events in flight, retries without a
//! queue.

use crate::{
    config::{Config, Fault},
    state::{Marker, Message, Set, State, Status},
};

/// Events that the leader reads together (`relay.max_in_flight`).
const WINDOW: usize = 2;

/// A retry copy between reading its row and marking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DueRetry {
    message: Message,
    confirmed: bool,
}

/// The memory of a relay process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Relay {
    /// Events that are read and not yet published.
    read: Set,
    /// Events that are published and not yet removed.
    confirmed: Set,
    retry: Option<DueRetry>,
}

/// A step of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayStep {
    ReadEvents,
    PublishEvent,
    RemoveEvents,
    /// Reads the due row at this index.
    ReadRetry(u8),
    PublishRetry,
    MarkRetry,
}

impl Relay {
    /// Whether it may still publish a copy of this row.
    pub(crate) fn holds_copy_of(&self, row: u8) -> bool {
        self.retry.is_some_and(|retry| retry.message.is_copy_of(row))
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl State {
    /// The possible steps of a relay.
    pub(crate) fn relay_steps(&self, config: &Config, relay: u8, steps: &mut Vec<RelayStep>) {
        let relay_state = &self.relays[usize::from(relay)];
        let is_leader = relay == self.leader;
        if !relay_state.read.is_empty() {
            steps.push(RelayStep::PublishEvent);
        } else if !relay_state.confirmed.is_empty() {
            steps.push(RelayStep::RemoveEvents);
        } else if is_leader && !self.readable(config).is_empty() {
            steps.push(RelayStep::ReadEvents);
        }
        match relay_state.retry {
            Some(DueRetry { confirmed: false, .. }) => steps.push(RelayStep::PublishRetry),
            Some(_) => steps.push(RelayStep::MarkRetry),
            None if is_leader => steps.extend((0..).zip(&self.failed).filter_map(|(index, row)| {
                (row.status == Status::Retrying && !row.published).then_some(RelayStep::ReadRetry(index))
            })),
            None => {}
        }
    }

    fn readable(&self, config: &Config) -> Set {
        let claimed = self.relays.iter().fold(0, |claimed, relay| claimed | relay.read.0);
        match config.fault {
            Fault::ClaimedRowsAreSkipped => Set(self.outbox.0 & !claimed),
            _ => self.outbox,
        }
    }

    pub(crate) fn relay_step(&mut self, config: &Config, relay: u8, step: RelayStep) {
        let is_leader = relay == self.leader;
        let index = usize::from(relay);
        match step {
            RelayStep::ReadEvents => {
                for event in self.readable(config).members().take(WINDOW) {
                    self.relays[index].read.add(event);
                    if config.fault == Fault::RemovedBeforeConfirmed {
                        self.outbox.remove(event);
                    }
                }
            }
            RelayStep::PublishEvent => {
                let event = self.relays[index].read.first().expect("the step needs a read event");
                self.relays[index].read.remove(event);
                self.relays[index].confirmed.add(event);
                self.arrived.add(event);
            }
            RelayStep::RemoveEvents if is_leader || config.fault == Fault::StaleLeaderRemoves => {
                self.outbox.0 &= !self.relays[index].confirmed.0;
                self.relays[index].confirmed = Set::default();
            }
            RelayStep::ReadRetry(row_index) => {
                let row = self.failed[usize::from(row_index)];
                let marker = Some(Marker { row: row.number, generation: row.generation });
                let message = Message { id: row.id, body: row.body, marker, redelivered: false };
                self.relays[index].retry = Some(DueRetry { message, confirmed: false });
            }
            RelayStep::PublishRetry => {
                let retry = self.relays[index].retry.as_mut().expect("the step needs a read retry");
                retry.confirmed = true;
                self.queue.publish(retry.message);
            }
            RelayStep::MarkRetry if is_leader => self.mark(config, index),
            // The session was terminated, and with it the leadership and everything that was read.
            RelayStep::RemoveEvents | RelayStep::MarkRetry => self.relays[index] = Relay::default(),
        }
    }

    /// Marks a row as published, if it still has the generation of the copy.
    fn mark(&mut self, config: &Config, index: usize) {
        let marker = self.relays[index].retry.take().and_then(|retry| retry.message.marker);
        let marker = marker.expect("the step needs a published retry");
        let any = config.fault == Fault::RelayMarksAnyGeneration;
        for row in &mut self.failed {
            let same = any || row.generation == marker.generation;
            if row.number == marker.row && row.status == Status::Retrying && same {
                row.published = true;
            }
        }
    }

    /// The standby terminates the session of the unresponsive leader.
    pub(crate) fn take_over(&mut self) {
        self.leader = 1 - self.leader;
        self.relays[usize::from(self.leader)] = Relay::default();
    }
}
