//! A store with scripted replies, over one in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use allocation::{
    adapters::memory::MemoryStore,
    domain::{BatchRef, FailedMessageKey, MessageKey, NewAttempt, Product},
    ports::{
        error::StoreError,
        queue::{QueueName, RetryMark},
        store::{ChangeSet, InboxCheck, RetryCheck, Store, Tx, WorkingSet},
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
    FailedAttempts,
    Load,
    WaitingLines,
    Commit,
}

/// What the store does when it is called.
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

/// What happens after the effect of a call.
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

/// What a commit has kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) skus: Vec<String>,
    pub(crate) handled: Vec<String>,
    pub(crate) unhandled: Vec<String>,
    pub(crate) ended: Vec<String>,
    pub(crate) failures: Vec<NewAttempt>,
}

#[derive(Default)]
struct Script {
    next: HashMap<Call, VecDeque<Reply>>,
    always: HashMap<Call, Reply>,
    loading: HashMap<String, Reply>,
    retries: HashMap<RetryMark, RetryCheck>,
    calls: Vec<Call>,
    kept: Vec<Kept>,
}

/// Clones are one store.
#[derive(Clone, Default)]
pub(crate) struct ScriptedStore {
    /// Where everything is kept.
    pub(crate) memory: MemoryStore,
    script: Arc<Mutex<Script>>,
}

impl ScriptedStore {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// The next answers to a question; after them it does again what it is asked.
    pub(crate) fn next(&self, call: Call, replies: impl IntoIterator<Item = Reply>) {
        self.script().next.entry(call).or_default().extend(replies);
    }

    /// The answer to a question from now on.
    pub(crate) fn always(&self, call: Call, reply: Reply) {
        self.script().always.insert(call, reply);
    }

    /// The answer from now on when a product is to be loaded.
    pub(crate) fn loading(&self, sku: &str, reply: Reply) {
        self.script().loading.insert(sku.into(), reply);
    }

    /// The check of a copy with this mark.
    pub(crate) fn knows_retry(&self, mark: RetryMark, check: RetryCheck) {
        self.script().retries.insert(mark, check);
    }

    /// How often a question was asked.
    pub(crate) fn asked(&self, call: Call) -> usize {
        self.script().calls.iter().filter(|asked| **asked == call).count()
    }

    /// What was kept, commit by commit.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        self.script().kept.clone()
    }

    /// Attempts that failed, in the order in which they were recorded.
    pub(crate) fn failures(&self) -> Vec<NewAttempt> {
        self.kept().into_iter().flat_map(|kept| kept.failures).collect()
    }

    /// How often a message was started without an end.
    pub(crate) async fn unfinished_starts(&self, queue: QueueName, id: &str) -> u32 {
        self.memory.unfinished_starts(queue, &[id.into()]).await.unwrap()[0]
    }

    /// Earlier workers have started a message so often without an end.
    pub(crate) async fn was_started(&self, queue: QueueName, id: &str, starts: u32) {
        for _ in 0..starts {
            self.memory.record_starts(queue, &[id.into()]).await.unwrap();
        }
    }

    async fn ask(&self, call: Call) -> Result<After, StoreError> {
        let reply = {
            let mut script = self.script();
            script.calls.push(call);
            let next = script.next.get_mut(&call).and_then(VecDeque::pop_front);
            next.or_else(|| script.always.get(&call).cloned())
        };
        follow(reply).await
    }
}

async fn follow(reply: Option<Reply>) -> Result<After, StoreError> {
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
    async fn begin(&self, queue: QueueName) -> Result<Box<dyn Tx>, StoreError> {
        self.ask(Call::Begin).await?;
        Ok(Box::new(ScriptedTx { inner: self.memory.begin(queue).await?, store: self.clone() }))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.ask(Call::Probe).await.map(drop)
    }

    async fn unfinished_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<Vec<u32>, StoreError> {
        let after = self.ask(Call::UnfinishedStarts).await?;
        after.apply(self.memory.unfinished_starts(queue, ids).await?)
    }

    async fn record_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.ask(Call::RecordStarts).await?;
        self.memory.record_starts(queue, ids).await
    }

    async fn revert_starts(&self, queue: QueueName, ids: &[Arc<str>]) -> Result<(), StoreError> {
        self.ask(Call::RevertStarts).await?;
        self.memory.revert_starts(queue, ids).await
    }
}

struct ScriptedTx {
    inner: Box<dyn Tx>,
    store: ScriptedStore,
}

fn texts(ids: &[Arc<str>]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[async_trait]
impl Tx for ScriptedTx {
    async fn check_inbox(&mut self, keys: &[MessageKey]) -> Result<Vec<InboxCheck>, StoreError> {
        let after = self.store.ask(Call::CheckInbox).await?;
        after.apply(self.inner.check_inbox(keys).await?)
    }

    async fn check_retries(&mut self, marks: &[RetryMark]) -> Result<Vec<RetryCheck>, StoreError> {
        let after = self.store.ask(Call::CheckRetries).await?;
        let script = self.store.script();
        let check = |mark| script.retries.get(mark).copied().unwrap_or(RetryCheck::Unknown);
        after.apply(marks.iter().map(check).collect())
    }

    async fn failed_attempts(&mut self, keys: &[FailedMessageKey]) -> Result<Vec<u32>, StoreError> {
        let after = self.store.ask(Call::FailedAttempts).await?;
        after.apply(self.inner.failed_attempts(keys).await?)
    }

    async fn load_products(&mut self, working_set: &WorkingSet) -> Result<Vec<Product>, StoreError> {
        self.store.ask(Call::Load).await?;
        let of_sku = {
            let script = self.store.script();
            working_set.skus.iter().find_map(|sku| script.loading.get(sku.as_str()).cloned())
        };
        follow(of_sku).await?;
        self.inner.load_products(working_set).await
    }

    async fn load_waiting_lines(&mut self, product: &mut Product) -> Result<(), StoreError> {
        self.store.ask(Call::WaitingLines).await?;
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
        let after = self.store.ask(Call::Commit).await?;
        let kept = Kept {
            skus: work.products.iter().map(|product| product.sku().to_string()).collect(),
            handled: texts(&work.handled),
            unhandled: texts(&work.unhandled),
            ended: texts(&work.ended),
            failures: work.failures.clone(),
        };
        self.inner.commit(work).await?;
        self.store.script().kept.push(kept);
        after.apply(vec![()]).map(drop)
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}
