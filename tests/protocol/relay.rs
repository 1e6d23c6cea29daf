//! The relay: due retries to the queue, events to the subscriber, and a leader that is frozen and continues later.
//!
//! The standby becomes leader when it ends the session of a frozen leader. The stale leader keeps what it has read and
//! may still publish it; on its lost session it cannot remove or mark anything. Order holds within a SKU, so one SKU
//! is modelled. Not modelled: rejected and parked events, several events in flight, retries that no queue takes.

use crate::{
    config::{Config, Fault},
    state::{Marker, Message, Set, State, Status},
};

/// Events that the leader reads together (`relay.max_in_flight`).
const WINDOW: usize = 2;

/// A retry copy between the reading of its row and its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DueRetry {
    message: Message,
    confirmed: bool,
}

/// What a relay process remembers.
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
    /// Reads the due row at this place.
    ReadRetry(u8),
    PublishRetry,
    MarkRetry,
}

impl Relay {
    /// Whether it may still publish a copy of this row.
    pub(crate) fn holds_copy_of(&self, row: u8) -> bool {
        self.retry.is_some_and(|retry| retry.message.is_copy_of(row))
    }

    pub(crate) fn remembers_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl State {
    /// What a relay can do next.
    pub(crate) fn relay_steps(&self, config: &Config, relay: u8, steps: &mut Vec<RelayStep>) {
        let memory = &self.relays[usize::from(relay)];
        let leads = relay == self.leader;
        if !memory.read.is_empty() {
            steps.push(RelayStep::PublishEvent);
        } else if !memory.confirmed.is_empty() {
            steps.push(RelayStep::RemoveEvents);
        } else if leads && !self.readable(config).is_empty() {
            steps.push(RelayStep::ReadEvents);
        }
        match memory.retry {
            Some(DueRetry { confirmed: false, .. }) => steps.push(RelayStep::PublishRetry),
            Some(_) => steps.push(RelayStep::MarkRetry),
            None if leads => steps.extend((0..).zip(&self.failed).filter_map(|(place, row)| {
                (row.status == Status::Retrying && !row.published).then_some(RelayStep::ReadRetry(place))
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
        let leads = relay == self.leader;
        let memory = usize::from(relay);
        match step {
            RelayStep::ReadEvents => {
                for event in self.readable(config).members().take(WINDOW) {
                    self.relays[memory].read.add(event);
                    if config.fault == Fault::RemovedBeforeConfirmed {
                        self.outbox.remove(event);
                    }
                }
            }
            RelayStep::PublishEvent => {
                let event = self.relays[memory].read.first().expect("the step needs a read event");
                self.relays[memory].read.remove(event);
                self.relays[memory].confirmed.add(event);
                self.arrived.add(event);
            }
            RelayStep::RemoveEvents if leads || config.fault == Fault::StaleLeaderRemoves => {
                self.outbox.0 &= !self.relays[memory].confirmed.0;
                self.relays[memory].confirmed = Set::default();
            }
            RelayStep::ReadRetry(place) => {
                let row = self.failed[usize::from(place)];
                let marker = Some(Marker { row: row.number, generation: row.generation });
                let message = Message { id: row.id, body: row.body, marker, redelivered: false };
                self.relays[memory].retry = Some(DueRetry { message, confirmed: false });
            }
            RelayStep::PublishRetry => {
                let retry = self.relays[memory].retry.as_mut().expect("the step needs a read retry");
                retry.confirmed = true;
                self.queue.publish(retry.message);
            }
            RelayStep::MarkRetry if leads => self.mark(config, memory),
            // The session is lost, and with it the lead and everything that was read.
            RelayStep::RemoveEvents | RelayStep::MarkRetry => self.relays[memory] = Relay::default(),
        }
    }

    /// Notes that a copy was published, if the row still is of its generation.
    fn mark(&mut self, config: &Config, memory: usize) {
        let marker = self.relays[memory].retry.take().and_then(|retry| retry.message.marker);
        let marker = marker.expect("the step needs a published retry");
        let any = config.fault == Fault::RelayMarksAnyGeneration;
        for row in &mut self.failed {
            let same = any || row.generation == marker.generation;
            if row.number == marker.row && row.status == Status::Retrying && same {
                row.published = true;
            }
        }
    }

    /// The standby ends the session of the leader, which is frozen.
    pub(crate) fn take_over(&mut self) {
        self.leader = 1 - self.leader;
        self.relays[usize::from(self.leader)] = Relay::default();
    }
}
