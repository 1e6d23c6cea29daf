//! A store with scripted replies; it calls the store in memory.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use allocation::{
    adapters::memory::MemoryStore,
    domain::{Batch, BatchRef, BatchSearch, FailedMessageKey, MessageKey, NewAttempt, Product, Sku},
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{
            ChangeSet, InboxCheck, LoadedProducts, LockMode, LockedRows, OrderCheck, OrderedMessage,
            RetryCheck, Store, Tx, WorkingSet,
        },
    },
};
use async_trait::async_trait;
use tokio::sync::Semaphore;

/// A call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Begin,
    Probe,
    UnfinishedStarts,
    RecordStarts,
    RevertStarts,
    CheckInbox,
    CheckRetries,
    CheckOrder,
    FailedAttempts,
    Load,
    WaitingLines,
    Commit,
}

/// The behaviour of a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The call succeeds.
    Does,
    /// The call fails without an effect.
    Fails(StoreError),
    /// The call has its effect, and fails.
    DoesAndFails(StoreError),
    /// The call has its effect, but the first answer of its list is missing.
    OneAnswerTooFew,
    /// The call panics.
    Panics,
    /// The call succeeds when there is a permit.
    Waits(Arc<Semaphore>),
}

/// The result of a call after its effect.
enum After {
    Nothing,
    Failure(StoreError),
    OneAnswerTooFew,
}

impl After {
    fn apply<T>(self, mut answers: Vec<T>) -> Result<Vec<T>, StoreError> {
        match self {
            Self::Nothing => {}
            Self::Failure(error) => return Err(error),
            Self::OneAnswerTooFew => drop(answers.remove(0)),
        }
        Ok(answers)
    }
}

/// The changes of a commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Committed {
    pub(crate) skus: Vec<String>,
    pub(crate) handled: Vec<String>,
    pub(crate) unhandled: Vec<String>,
    pub(crate) ended: Vec<String>,
    pub(crate) failures: Vec<NewAttempt>,
}

#[derive(Default)]
struct Script {
    next_replies: HashMap<Call, VecDeque<Reply>>,
    replies: HashMap<Call, Reply>,
    load_replies: HashMap<String, Reply>,
    /// The products that another session has locked, and those of which it has locked other rows.
    locked: HashSet<String>,
    rows_locked: HashSet<String>,
    retry_checks: HashMap<RetryMark, RetryCheck>,
    calls: Vec<Call>,
    commits: Vec<Committed>,
}

/// Clones share one store.
#[derive(Clone, Default)]
pub(crate) struct ScriptedStore {
    /// The store that executes the calls.
    pub(crate) memory: MemoryStore,
    script: Arc<Mutex<Script>>,
}

impl ScriptedStore {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Sets the replies to the next calls; later calls succeed.
    pub(crate) fn set_next_replies(&self, call: Call, replies: impl IntoIterator<Item = Reply>) {
        self.script().next_replies.entry(call).or_default().extend(replies);
    }

    /// Sets the reply to all later calls.
    pub(crate) fn set_reply(&self, call: Call, reply: Reply) {
        self.script().replies.insert(call, reply);
    }

    /// Sets the reply to all later calls that load a product.
    pub(crate) fn set_load_reply(&self, sku: &str, reply: Reply) {
        self.script().load_replies.insert(sku.into(), reply);
    }

    /// Sets the check of a copy with this mark.
    pub(crate) fn set_retry_check(&self, mark: RetryMark, check: RetryCheck) {
        self.script().retry_checks.insert(mark, check);
    }

    /// The number of calls of a kind.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.script().calls.iter().filter(|made| **made == call).count()
    }

    /// The commits, in order.
    pub(crate) fn commits(&self) -> Vec<Committed> {
        self.script().commits.clone()
    }

    /// The recorded attempts, in order.
    pub(crate) fn failures(&self) -> Vec<NewAttempt> {
        self.commits().into_iter().flat_map(|commit| commit.failures).collect()
    }

    /// The number of unfinished starts of a message.
    pub(crate) async fn unfinished_starts(&self, queue: QueueName, id: &str) -> u32 {
        self.memory.unfinished_starts(queue, &[id.into()]).await.unwrap()[0]
    }

    /// Sets the number of unfinished starts of a message, as crashed workers leave them.
    pub(crate) async fn set_unfinished_starts(&self, queue: QueueName, id: &str, starts: u32) {
        for _ in 0..starts {
            self.memory.record_starts(queue, &[id.into()]).await.unwrap();
        }
    }

    /// Another session has locked exactly these products.
    pub(crate) fn set_locked(&self, skus: &[&str]) {
        self.script().locked = skus.iter().map(ToString::to_string).collect();
    }

    /// Another session has locked rows of exactly these products, but not the products.
    pub(crate) fn set_rows_locked(&self, skus: &[&str]) {
        self.script().rows_locked = skus.iter().map(ToString::to_string).collect();
    }

    async fn reply_to(&self, call: Call) -> Result<After, StoreError> {
        let reply = {
            let mut script = self.script();
            script.calls.push(call);
            let next = script.next_replies.get_mut(&call).and_then(VecDeque::pop_front);
            next.or_else(|| script.replies.get(&call).cloned())
        };
        execute(reply).await
    }
}

async fn execute(reply: Option<Reply>) -> Result<After, StoreError> {
    match reply {
        None | Some(Reply::Does) => Ok(After::Nothing),
        Some(Reply::Fails(error)) => Err(error),
        Some(Reply::DoesAndFails(error)) => Ok(After::Failure(error)),
        Some(Reply::OneAnswerTooFew) => Ok(After::OneAnswerTooFew),
        Some(Reply::Panics) => panic!("the store panics"),
        Some(Reply::Waits(gate)) => {
            gate.acquire().await.unwrap().forget();
            Ok(After::Nothing)
        }
    }
}

#[async_trait]
impl Store for ScriptedStore {
    async fn begin_with(&self, queue: QueueName, locks: LockMode) -> Result<Box<dyn Tx>, StoreError> {
        self.reply_to(Call::Begin).await?;
        let inner = self.memory.begin_with(queue, locks).await?;
        Ok(Box::new(ScriptedTx { inner, locks, store: self.clone() }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.reply_to(Call::Probe).await.map(drop)
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let after = self.reply_to(Call::UnfinishedStarts).await?;
        after.apply(self.memory.unfinished_starts(queue, ids).await?)
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.reply_to(Call::RecordStarts).await?;
        self.memory.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.reply_to(Call::RevertStarts).await?;
        self.memory.revert_starts(queue, ids).await
    }
}

struct ScriptedTx {
    inner: Box<dyn Tx>,
    locks: LockMode,
    store: ScriptedStore,
}

/// Waits for a lock in vain.
async fn lock_timeout<T>(locks: LockMode) -> Result<T, StoreError> {
    let timeout = if locks == LockMode::Wait { 1000 } else { 50 };
    tokio::time::sleep(Duration::from_millis(timeout)).await;
    Err(StoreError::Locked("lock timeout".into()))
}

fn texts(ids: &[Arc<str>]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[async_trait]
impl Tx for ScriptedTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        let after = self.store.reply_to(Call::CheckInbox).await?;
        after.apply(self.inner.check_inbox(keys).await?)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        let after = self.store.reply_to(Call::CheckRetries).await?;
        let script = self.store.script();
        let check = |mark| script.retry_checks.get(mark).copied().unwrap_or(RetryCheck::Unknown);
        after.apply(marks.iter().map(check).collect())
    }

    async fn check_order(&mut self, messages: &[OrderedMessage]) -> Result<Vec<OrderCheck>, StoreError> {
        let after = self.store.reply_to(Call::CheckOrder).await?;
        after.apply(self.inner.check_order(messages).await?)
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        let after = self.store.reply_to(Call::FailedAttempts).await?;
        after.apply(self.inner.failed_attempts(keys).await?)
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<LoadedProducts, StoreError> {
        self.store.reply_to(Call::Load).await?;
        let of_sku = {
            let script = self.store.script();
            working_set.skus.iter().find_map(|sku| script.load_replies.get(sku.as_str()).cloned())
        };
        execute(of_sku).await?;
        let mut working_set = working_set.clone();
        let is_locked = |sku: &Sku| self.store.script().locked.contains(sku.as_str());
        let locked: BTreeSet<_> = working_set.skus.extract_if(.., |sku| is_locked(sku)).collect();
        if self.locks != LockMode::Skip && !locked.is_subset(&working_set.locked_lately.skus) {
            return lock_timeout(self.locks).await;
        }
        let mut loaded = self.inner.load_products(&working_set).await?;
        loaded.locked = LockedRows { skus: locked, ..LockedRows::default() };
        Ok(loaded)
    }

    async fn search_batches(&mut self, sku: &Sku, search: &BatchSearch) -> Result<Vec<Batch>, StoreError> {
        self.inner.search_batches(sku, search).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.store.reply_to(Call::WaitingLines).await?;
        self.inner.load_waiting_lines(product).await
    }

    async fn load_newest_lines(
        &mut self,
        product: &mut Product,
        batch: &BatchRef,
        units: u32,
    ) -> Result<(), StoreError> {
        self.inner.load_newest_lines(product, batch, units).await
    }

    async fn commit(self: Box<Self>, work: ChangeSet) -> Result<(), StoreError> {
        let after = self.store.reply_to(Call::Commit).await?;
        let changed = work.products.iter().map(|product| product.sku().to_string());
        if changed.into_iter().any(|sku| self.store.script().rows_locked.contains(&sku)) {
            return lock_timeout(self.locks).await;
        }
        let commit = Committed {
            skus: work.products.iter().map(|product| product.sku().to_string()).collect(),
            handled: texts(&work.handled),
            unhandled: texts(&work.unhandled),
            ended: texts(&work.ended),
            failures: work.failures.clone(),
        };
        self.inner.commit(work).await?;
        self.store.script().commits.push(commit);
        after.apply(vec![()]).map(drop)
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}
