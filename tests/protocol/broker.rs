//! The quorum queue: order, redelivery, and the assignment of deliveries.
//!
//! Returned messages are delivered before all others, but after messages that were returned earlier
//! (`rabbit_fifo.erl`, `return_one` and `take_next_msg`; measured on 3.10.8). The original order is therefore kept
//! only if one consumer receives everything that was returned before. A new subscription receives it at once, up to
//! its prefetch. Not modelled: delivery limit, dead-letter queue, time to live, loss of a queue.

use crate::{
    config::{Config, Fault},
    state::{Message, State},
};

/// The messages that are ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    returned: Vec<Message>,
    ready: Vec<Message>,
}

impl Queue {
    pub(crate) fn publish(&mut self, message: Message) {
        self.ready.push(message);
    }

    pub(crate) fn take(&mut self) -> Option<Message> {
        let from = if self.returned.is_empty() { &mut self.ready } else { &mut self.returned };
        (!from.is_empty()).then(|| from.remove(0))
    }

    /// Requeues what a connection held, in the order of delivery.
    pub(crate) fn requeue(&mut self, held: &[Message]) {
        self.returned.extend(held.iter().map(|message| Message { redelivered: true, ..*message }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.ready.is_empty()
    }

    pub(crate) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.returned.iter().chain(&self.ready)
    }
}

impl State {
    /// With a single active consumer: `worker` becomes the active one.
    pub(crate) fn subscribe(&mut self, config: &Config, worker: u8) {
        let smaller = config.fault == Fault::SmallerPrefetchAfterReturn && self.queue.has_returned();
        self.active = Some((worker, if smaller { 1 } else { config.prefetch }));
    }

    /// Without a single active consumer: `worker` gets the next message.
    pub(crate) fn deliver(&mut self, worker: u8) {
        let message = self.queue.take();
        self.workers[usize::from(worker)].held.extend(message);
    }

    /// The broker delivers at once what the prefetch of the active consumer allows.
    pub(crate) fn fill_active_consumer(&mut self) {
        let Some((worker, prefetch)) = self.active else { return };
        let held = &mut self.workers[usize::from(worker)].held;
        while held.len() < usize::from(prefetch) {
            let Some(message) = self.queue.take() else { return };
            held.push(message);
        }
    }

    /// A connection ends: its unacknowledged messages return to the queue.
    pub(crate) fn end_connection(&mut self, worker: u8) {
        let worker_state = &mut self.workers[usize::from(worker)];
        if std::mem::replace(&mut worker_state.connected, false) {
            self.queue.requeue(&worker_state.held);
        }
        if self.active.is_some_and(|(active, _)| active == worker) {
            self.active = None;
        }
    }
}
