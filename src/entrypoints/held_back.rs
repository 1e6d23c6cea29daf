//! Messages of one partition that wait for a lock of another session, and later messages with the same keys.
//!
//! They stay unacknowledged, keep their order, and are handled again after growing pauses, in units of work of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    ports::{
        answered::Answered,
        error::{StoreError, error_text},
        queue::QueueName,
    },
    service::backoff::Backoff,
};

use super::delivery::PendingDelivery;

/// A lock that is held for longer is reported: a person may have to end the session.
const REPORT_AFTER: Duration = Duration::from_secs(3);

/// What messages must not overtake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Ordered(String),
    /// A message that cannot be decoded, by its delivery tag.
    Single(u64),
}

impl Key {
    fn of(delivery: &PendingDelivery) -> Self {
        let key = delivery.received.ordering_key();
        key.map_or(Self::Single(delivery.tag), |key| Self::Ordered(key.to_owned()))
    }
}

struct HeldKey {
    messages: VecDeque<PendingDelivery>,
    delays: Backoff,
    next_try: Instant,
    /// Its first message was handled: the others need not be tried one by one.
    is_free: bool,
    /// Some of its messages are being tried.
    is_tried: bool,
}

/// The messages that a partition holds back.
pub(super) struct HeldBack {
    queue: QueueName,
    keys: HashMap<Key, HeldKey>,
    /// The keys behind which later messages with these ids wait.
    ids: HashMap<Arc<str>, Key>,
    since: Option<Instant>,
    reported: bool,
}

impl HeldBack {
    pub(super) fn new(queue: QueueName) -> Self {
        Self { queue, keys: HashMap::new(), ids: HashMap::new(), since: None, reported: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The number of messages.
    pub(super) fn len(&self) -> usize {
        self.keys.values().map(|key| key.messages.len()).sum()
    }

    /// Holds back the deliveries that must not overtake others, and returns the rest.
    pub(super) fn admit(&mut self, batch: Vec<PendingDelivery>) -> Vec<PendingDelivery> {
        if self.is_empty() {
            return batch;
        }
        let mut admitted = Vec::with_capacity(batch.len());
        for delivery in batch {
            let own = Key::of(&delivery);
            let key = delivery.received.id().and_then(|id| self.ids.get(id)).cloned().unwrap_or(own);
            match self.keys.get_mut(&key) {
                Some(held) if !held.is_tried => {
                    self.ids.extend(delivery.received.id().map(|id| (id.clone(), key)));
                    held.messages.push_back(delivery);
                }
                _ => admitted.push(delivery),
            }
        }
        admitted
    }

    /// Holds messages that were tried, in front of those with their keys.
    pub(super) fn hold(&mut self, blocked: Answered<PendingDelivery, StoreError>) {
        let Some(error) = blocked.iter().next().map(|(_, error)| error_text(error)) else { return };
        let mut tried: HashMap<Key, VecDeque<PendingDelivery>> = HashMap::new();
        for (delivery, _) in blocked {
            let own = Key::of(&delivery);
            let key = delivery.received.id().and_then(|id| self.ids.get(id)).cloned().unwrap_or(own);
            self.ids.extend(delivery.received.id().map(|id| (id.clone(), key.clone())));
            tried.entry(key).or_default().push_back(delivery);
        }
        for (key, mut messages) in tried {
            let held = self.keys.entry(key).or_insert_with(|| HeldKey {
                messages: VecDeque::new(),
                delays: Backoff::while_locked(),
                next_try: Instant::now(),
                is_free: false,
                is_tried: false,
            });
            messages.append(&mut held.messages);
            held.messages = messages;
            held.next_try = Instant::now() + held.delays.next().unwrap_or_default();
            (held.is_free, held.is_tried) = (false, false);
        }
        self.report(&error);
    }

    /// Waits until some messages are to be tried again; forever if there are none.
    pub(super) async fn due(&self) {
        match self.keys.values().map(|key| key.next_try).min() {
            Some(next_try) => tokio::time::sleep_until(next_try).await,
            None => std::future::pending().await,
        }
    }

    /// Takes at most `at_most` messages that are to be tried again: of each key the first one, and then the others.
    pub(super) fn take_due(&mut self, at_most: usize) -> Vec<PendingDelivery> {
        let now = Instant::now();
        let mut taken = Vec::new();
        for held in self.keys.values_mut().filter(|held| held.next_try <= now) {
            let wanted = if held.is_free { held.messages.len() } else { 1 };
            let room = at_most - taken.len();
            held.is_tried = room > 0;
            taken.extend(held.messages.drain(..wanted.min(room)));
        }
        taken
    }

    /// The messages that were taken are handled, or held again.
    pub(super) fn settle(&mut self) {
        for held in self.keys.values_mut().filter(|held| held.is_tried) {
            (held.is_free, held.is_tried) = (true, false);
        }
        self.keys.retain(|_, held| !held.messages.is_empty());
        let keys = &self.keys;
        self.ids.retain(|_, key| keys.contains_key(key));
        if let Some(since) = self.since
            && self.keys.is_empty()
        {
            if self.reported {
                let (queue, waited_ms) = (self.queue.as_str(), since.elapsed().as_millis());
                info!(queue, waited_ms, "no message waits for a lock any more");
            }
            (self.since, self.reported) = (None, false);
        }
    }

    /// All messages, which return to the queue.
    pub(super) fn into_messages(self) -> impl Iterator<Item = PendingDelivery> {
        self.keys.into_values().flat_map(|held| held.messages)
    }

    fn report(&mut self, error: &str) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.reported && since.elapsed() > REPORT_AFTER {
            self.reported = true;
            let key = self.keys.keys().find_map(|key| match key {
                Key::Ordered(key) => Some(key.as_str()),
                Key::Single(_) => None,
            });
            warn!(
                queue = self.queue.as_str(),
                key,
                messages = self.len(),
                error,
                "messages wait for a lock that another session of the database holds"
            );
        }
    }
}
