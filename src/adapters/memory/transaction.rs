//! A transaction: it holds the whole store, and writes nothing before the commit.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    domain::{Batch, BatchRef, BatchSearch, Batches, FailedMessageKey, MessageKey, OutboxRow, Product, Sku},
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, OrderCheck, OrderedMessage, OutboxEvent, ReadModelState,
            RetryCheck, Tx, WorkingSet,
        },
    },
};

use super::state::{InboxRow, MemoryState, StoredProduct};

/// A transaction about messages of a queue.
pub(super) struct MemoryTx {
    state: OwnedMutexGuard<MemoryState>,
    queue: QueueName,
    keys: Vec<MessageKey>,
    committed: Arc<Notify>,
}

impl MemoryTx {
    pub(super) fn new(state: OwnedMutexGuard<MemoryState>, queue: QueueName, committed: Arc<Notify>) -> Self {
        Self { state, queue, keys: Vec::new(), committed }
    }
}

#[async_trait]
impl Tx for MemoryTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        let mut inbox_checks = Vec::with_capacity(keys.len());
        for key in keys {
            inbox_checks.push(match self.state.inbox.get(&(self.queue, key.message_id.clone())) {
                None => {
                    self.keys.push(key.clone());
                    InboxCheck::New
                }
                Some(known) if known.key == *key => InboxCheck::Duplicate,
                Some(_) => InboxCheck::BodyMismatch,
            });
        }
        Ok(inbox_checks)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        Ok(marks.iter().map(|mark| self.state.failed_messages.check_retry(self.queue, mark)).collect())
    }

    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError> {
        let check = |message| self.state.failed_messages.check_order(self.queue, message);
        Ok(messages.iter().map(check).collect())
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        Ok(keys.iter().map(|key| self.state.failed_messages.count_attempts(self.queue, key)).collect())
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError> {
        let named = |stored: &StoredProduct| {
            working_set.batches.iter().any(|name| stored.batches.get(name).is_some())
        };
        let mut products = Vec::new();
        for (sku, stored) in &self.state.products {
            if !working_set.skus.contains(sku) && !named(stored) {
                continue;
            }
            let mut product = stored.bare.clone();
            let mut references: HashSet<_> = working_set.batches.iter().collect();
            for (_, orderid) in working_set.lines.iter().filter(|(of, _)| of == sku) {
                if let Some(line) = stored.lines.get(orderid) {
                    references.extend(&line.batch);
                    product.attach_line(orderid.clone(), line.clone());
                }
            }
            references.into_iter().filter_map(|reference| stored.batches.get(reference)).for_each(|batch| {
                product.attach_batch(batch.clone());
            });
            product.attach_found(&BatchSearch::FIRST, found(stored, &BatchSearch::FIRST));
            products.push(product);
        }
        Ok(LoadedProducts { products, ..LoadedProducts::default() })
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        Ok(self.state.products.get(sku).map_or(Vec::new(), |stored| found(stored, search)))
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        let Some(stored) = self.state.products.get(product.sku()) else {
            return Ok(());
        };
        let settled: HashSet<_> = product.known_lines().cloned().collect();
        let available: Vec<_> = product.freed_stock().collect();
        let mut waiting: Vec<_> = stored.lines.iter().filter(|(_, line)| line.batch.is_none()).collect();
        waiting.sort_unstable_by_key(|(_, line)| line.position);
        let mut taken: HashMap<u32, u32> = HashMap::new();
        for (orderid, line) in waiting.into_iter().filter(|(orderid, _)| !settled.contains(*orderid)) {
            let quantity = line.quantity.get();
            let fit: u32 = available.iter().map(|available| available / quantity).sum();
            let taken = taken.entry(quantity).or_default();
            if *taken < fit {
                *taken += 1;
                product.attach_line(orderid.clone(), line.clone());
            }
        }
        Ok(())
    }

    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        let Some(stored) = self.state.products.get(product.sku()) else {
            return Ok(());
        };
        let settled: HashSet<_> = product.known_lines().cloned().collect();
        let mut placed: Vec<_> = stored
            .lines
            .iter()
            .filter(|(orderid, line)| line.batch.as_ref() == Some(batch) && !settled.contains(*orderid))
            .collect();
        placed.sort_unstable_by_key(|(_, line)| std::cmp::Reverse(line.position));
        let mut held = 0;
        for (orderid, line) in placed {
            if held >= units {
                break;
            }
            held = held.saturating_add(line.quantity.get());
            product.attach_line(orderid.clone(), line.clone());
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, work: ChangeSet) -> Result<(), StoreError> {
        let keys = std::mem::take(&mut self.keys);
        let queue = self.queue;
        self.state.apply(queue, keys, work)?;
        self.committed.notify_one();
        Ok(())
    }

    async fn rollback(self: Box<Self>) {}
}

fn found(stored: &StoredProduct, search: &BatchSearch) -> Vec<Batch> {
    stored.batches.search(search).into_iter().cloned().collect()
}

impl MemoryState {
    fn apply(&mut self, queue: QueueName, keys: Vec<MessageKey>, work: ChangeSet) -> Result<(), StoreError> {
        self.check(&work)?;
        let unhandled: HashSet<_> = work.unhandled.iter().collect();
        for key in keys.into_iter().filter(|key| !unhandled.contains(&key.message_id)) {
            let row = InboxRow { key: key.clone(), handled_at: Instant::now() };
            self.inbox.insert((queue, key.message_id), row);
        }
        for id in work.ended {
            self.starts.remove(&(queue, id));
        }
        for product in &work.products {
            self.store(product);
        }
        for row in work.view {
            match row.state {
                ReadModelState::Removed => self.view.remove(&(row.orderid, row.sku)),
                state => self.view.insert((row.orderid, row.sku), state),
            };
        }
        for overtaking in work.overtakings {
            self.failed_messages.overtake(&overtaking);
        }
        for id in work.handled {
            if let Some(row) = self.inbox.get(&(queue, id)) {
                self.failed_messages.resolve(queue, &row.key);
            }
        }
        for attempt in work.failures {
            if self.failed_messages.record(queue, &attempt) {
                self.failures.push((queue, attempt));
            }
        }
        for key in work.released {
            self.failed_messages.release(&key);
        }
        work.events.into_iter().for_each(|event| self.append(event));
        Ok(())
    }

    fn append(&mut self, event: OutboxEvent) {
        self.last_event += 1;
        self.outbox.push_back(OutboxRow {
            id: self.last_event,
            event_id: Uuid::from_u128(u128::from(self.last_event.unsigned_abs())),
            name: event.name.to_owned(),
            sku: event.sku.to_string(),
            sequence: event.sequence,
            body: event.body,
            causation_id: event.causation_id.to_string(),
            correlation_id: event.correlation_id.to_string(),
            traceparent: event.traceparent.map(|trace| trace.to_string()),
            tracestate: event.tracestate.map(|state| state.to_string()),
            committed_at: OffsetDateTime::UNIX_EPOCH,
        });
    }

    /// The constraints of the database.
    fn check(&self, work: &ChangeSet) -> Result<(), StoreError> {
        let taken = |reference: &BatchRef| {
            self.products.values().any(|stored| stored.batches.get(reference).is_some())
        };
        for product in &work.products {
            let stored = self.products.get(product.sku()).map_or(0, |stored| stored.bare.version());
            if stored != product.version() {
                let conflict = format!("product {} is at version {stored}", product.sku());
                return Err(StoreError::Conflict(conflict.into()));
            }
            if let Some(batch) = product.changes().new_batches.iter().find(|batch| taken(&batch.reference)) {
                return Err(StoreError::AlreadyExists(format!("batch {} exists", batch.reference).into()));
            }
        }
        Ok(())
    }

    fn store(&mut self, product: &Product) {
        let bare = Product::from_stored(
            product.sku().clone(),
            product.version() + 1,
            product.sequence(),
            product.last_position(),
            product.backordered(),
        );
        let stored = self.products.entry(product.sku().clone()).or_insert_with(|| StoredProduct {
            bare: bare.clone(),
            batches: Batches::default(),
            lines: HashMap::new(),
        });
        stored.bare = bare;
        let changes = product.changes();
        for batch in changes.new_batches.into_iter().chain(changes.changed_batches) {
            stored.batches.insert(batch.clone());
        }
        for orderid in changes.removed_lines {
            stored.lines.remove(orderid);
        }
        for (orderid, line) in changes.new_lines.into_iter().chain(changes.moved_lines) {
            stored.lines.insert(orderid.clone(), line.clone());
        }
    }
}
