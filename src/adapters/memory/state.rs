//! The committed state, and its handle.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard},
    time::Instant,
};

use crate::{
    domain::{Batch, Batches, Line, MessageKey, NewAttempt, OrderId, OutboxRow, Product, Sku},
    ports::{queue::QueueName, store::ReadModelState},
};

use super::failed_messages::{FailedMessageTable, RecordedFailure};

/// A store with one transaction at a time. Clones are one store.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<MemoryState>>,
    pub(super) committed: Arc<Notify>,
    /// Held by the leader.
    pub(super) leadership: Arc<Mutex<()>>,
}

/// The committed state.
#[derive(Clone, Default)]
pub struct MemoryState {
    pub(super) products: BTreeMap<Sku, StoredProduct>,
    /// The rows of the read model, ordered by line.
    pub view: BTreeMap<(OrderId, Sku), ReadModelState>,
    /// The recorded attempts, oldest first.
    pub failures: Vec<(QueueName, NewAttempt)>,
    /// Unpublished events.
    pub outbox: VecDeque<OutboxRow>,
    /// The parked ones among them, by id, with the reason.
    pub parked: BTreeMap<i64, String>,
    /// The number of published events without a bound queue.
    pub unroutable: i64,
    pub(super) failed_messages: FailedMessageTable,
    pub(super) inbox: HashMap<(QueueName, Arc<str>), InboxRow>,
    pub(super) starts: HashMap<(QueueName, Arc<str>), StartsRow>,
    pub(super) last_event: i64,
}

/// A handled message.
#[derive(Clone)]
pub(super) struct InboxRow {
    pub(super) key: MessageKey,
    pub(super) handled_at: Instant,
}

/// The unfinished starts of a message.
#[derive(Clone)]
pub(super) struct StartsRow {
    pub(super) starts: u32,
    /// The time of the last one.
    pub(super) started_at: Instant,
}

/// A product, its batches and its lines.
#[derive(Clone)]
pub(super) struct StoredProduct {
    /// Without batches and lines.
    pub(super) bare: Product,
    pub(super) batches: Batches,
    pub(super) lines: HashMap<OrderId, Line>,
}

/// A product of a new store.
pub struct SeedProduct {
    /// The SKU.
    pub sku: Sku,
    /// Its batches, with their allocated quantities.
    pub batches: Vec<Batch>,
    /// Its lines, with positions from 1.
    pub lines: HashMap<OrderId, Line>,
}

impl MemoryStore {
    /// A store with products.
    #[must_use]
    pub fn holding(products: Vec<SeedProduct>) -> Self {
        let stored = products.into_iter().map(|SeedProduct { sku, batches: seed, lines }| {
            let last_position = i64::try_from(lines.len()).unwrap_or(i64::MAX);
            let bare = Product::from_stored(sku.clone(), 1, 0, last_position, 0);
            let mut batches = Batches::default();
            for batch in seed {
                batches.insert(batch);
            }
            (sku, StoredProduct { bare, batches, lines })
        });
        let state = MemoryState { products: stored.collect(), ..MemoryState::default() };
        Self::with_state(state)
    }

    /// A store that begins with a state.
    pub(super) fn with_state(state: MemoryState) -> Self {
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    /// Locks the committed state: no transaction begins until the guard is dropped.
    pub async fn state(&self) -> OwnedMutexGuard<MemoryState> {
        self.state.clone().lock_owned().await
    }
}

impl MemoryState {
    /// The failed message with an id.
    #[must_use]
    pub fn failed_message(&self, id: i64) -> Option<RecordedFailure> {
        self.failed_messages.recorded(id)
    }

    /// A product with all its batches and lines.
    #[must_use]
    pub fn product(&self, sku: &Sku) -> Option<Product> {
        let stored = self.products.get(sku)?;
        let mut product = stored.bare.clone();
        stored.batches.iter().for_each(|batch| product.attach_batch(batch.clone()));
        stored.lines.iter().for_each(|(orderid, line)| product.attach_line(orderid.clone(), line.clone()));
        Some(product)
    }
}
