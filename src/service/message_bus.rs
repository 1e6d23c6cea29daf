//! Takes commands through their units of work: seen before? → handler → reactions until none is left → one commit.

use std::{
    collections::{HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::RwLock;

use crate::{
    crash_points::{self, CrashPoint},
    domain::{Command, Event},
    ports::{
        ledger::Next,
        notifier::Notifier,
        queue::QueueName,
        store::{Footprint, Sight, Store, StoreError, ViewState},
    },
};

use super::{
    decode::{Envelope, Undecodable},
    delays::{Delays, RetryPolicy},
    handlers::{self, HandlerError},
    incoming::{Batch, Incoming},
    notifications,
    outage::Away,
    suspects::{self, Group},
    unit_of_work::{Failed, UnitOfWork},
    verdict::{Failure, Verdict, verdict},
};

/// Commands of a larger unit of work that broke are handled again so many at a time, and one by one where it breaks again.
const PORTION: usize = 32;
/// What took longer to break is handled one by one at once: it may take its time whenever it is tried.
const BROKE_SOON: Duration = Duration::from_secs(1);

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was handled, and what it changed is committed.
    Handled,
    /// It was handled before; nothing changed.
    Repeat,
    /// It was not handled and nothing changed, but the ledger has it.
    Failed(Failure, Next),
    /// It was not handled and nothing changed; its sender, who waits for the answer, is to be told.
    Refused(Failure),
}

/// How the bus treats what goes wrong.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A handler that takes longer has failed.
    pub handler_timeout: Duration,
    /// How failed attempts are tried again.
    pub retry: RetryPolicy,
    /// Who we are, for the ledger.
    pub host: String,
}

/// Handles commands, one or many in one unit of work. Clones are one bus: a process has one.
#[derive(Clone)]
pub struct MessageBus {
    store: Arc<dyn Store>,
    notifier: Arc<dyn Notifier>,
    policy: Arc<Policy>,
    /// Held for reading by whoever handles messages, for writing by whoever must be alone in this process.
    company: Arc<RwLock<()>>,
}

/// Why a unit of work came to nothing.
struct Broken {
    failure: Failure,
    /// How long the command that broke it took, if it was one.
    took: Duration,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { failure, took: Duration::ZERO }
    }
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Failure::from(error).into()
    }
}

impl MessageBus {
    /// A bus over a store, with somebody who tells people.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, notifier: Arc<dyn Notifier>, policy: Policy) -> Self {
        Self { store, notifier, policy: Arc::new(policy), company: Arc::default() }
    }

    /// Whether the store answers; and the notifier, for who needs it.
    ///
    /// # Errors
    /// [`Away`] if one does not.
    pub async fn probe(&self, notifier: bool) -> Result<(), Away> {
        self.store.probe().await?;
        if notifier {
            self.notifier.probe().await?;
        }
        Ok(())
    }

    /// Handles messages that came from `queue`. Each has its own fate, in the order given.
    ///
    /// # Errors
    /// [`Away`]: whether some of it was committed is unknown, so all of it is to be handled again; inbox and
    /// ledger tell what was done.
    pub async fn handle(&self, queue: QueueName, batch: &[Incoming]) -> Result<Vec<Fate>, Away> {
        let mut fates = vec![None; batch.len()];
        for group in suspects::groups(&*self.store, queue, batch).await? {
            let (members, of_group) = match group {
                Group::Together(members) => {
                    self.tell_people(queue, batch, &members).await?;
                    let _others_may = self.company.read().await;
                    let together: Vec<_> = members.iter().map(|&i| &batch[i]).collect();
                    let of_group = self.handle_group(queue, &together).await?;
                    (members, of_group)
                }
                Group::Alone(i) => {
                    self.tell_people(queue, batch, &[i]).await?;
                    // If it kills this process, nobody else was at work who could be taken for the culprit.
                    let _nobody_else = self.company.write().await;
                    (vec![i], self.handle_group(queue, &[&batch[i]]).await?)
                }
                Group::Dead(i, deaths) => {
                    let failure = Failure::CrashLoop(deaths);
                    (vec![i], vec![self.record_alone(queue, &batch[i], failure.into()).await?])
                }
            };
            for (i, fate) in members.into_iter().zip(of_group) {
                fates[i] = Some(fate);
            }
        }
        Ok(fates.into_iter().flatten().collect())
    }

    /// Records messages that the broker put aside. One that was handled meanwhile is left alone.
    ///
    /// # Errors
    /// As [`MessageBus::handle`].
    pub async fn bury(&self, queue: QueueName, batch: &[Incoming]) -> Result<Vec<Fate>, Away> {
        let mut fates = Vec::with_capacity(batch.len());
        for incoming in batch {
            let why = incoming.message.broken_off.clone().unwrap_or_else(|| "rejected".into());
            fates.push(self.record_alone(queue, incoming, Failure::PutAside(why).into()).await?);
        }
        Ok(fates)
    }

    /// Before anybody has to wait for the unit of work, and before its start counts: a mail server that is slow or away
    /// holds up nobody else, and kills nobody.
    async fn tell_people(&self, queue: QueueName, batch: &[Incoming], members: &[usize]) -> Result<(), Away> {
        if queue != QueueName::Notifications {
            return Ok(());
        }
        for &i in members {
            notifications::send(&*self.store, &*self.notifier, queue, &batch[i]).await?;
        }
        Ok(())
    }

    async fn handle_group(&self, queue: QueueName, group: &Batch<'_>) -> Result<Vec<Fate>, Away> {
        suspects::count_starts(&*self.store, queue, group).await?;
        let mut fates = vec![Fate::Repeat; group.len()];
        let mut due: Vec<usize> = (0..group.len()).collect();
        while !due.is_empty() {
            // Of several messages of one id only the first may go into a unit of work; the inbox judges the others.
            let mut ids = HashSet::new();
            let (now, later): (Vec<_>, _) =
                due.into_iter().partition(|&i| ids.insert(group[i].key().message_id));
            let distinct: Vec<_> = now.iter().map(|&i| group[i]).collect();
            for (i, fate) in now.into_iter().zip(self.handle_distinct(queue, &distinct).await?) {
                fates[i] = fate;
            }
            due = later;
        }
        Ok(fates)
    }

    /// All in one unit of work; if that breaks, in smaller ones, and in the end each in its own, so that a failure is the
    /// failure of one command.
    async fn handle_distinct(&self, queue: QueueName, batch: &Batch<'_>) -> Result<Vec<Fate>, Away> {
        let begin = Instant::now();
        let broken = match self.handle_together(queue, batch).await {
            Ok(fates) => return Ok(fates),
            Err(broken) => self.away(broken).await?,
        };
        if let [incoming] = batch {
            return Ok(vec![self.record_alone(queue, incoming, broken).await?]);
        }
        let smaller = if batch.len() > PORTION && begin.elapsed() < BROKE_SOON { PORTION } else { 1 };
        let mut fates = Vec::with_capacity(batch.len());
        for portion in batch.chunks(smaller) {
            fates.extend(Box::pin(self.handle_distinct(queue, portion)).await?);
        }
        Ok(fates)
    }

    /// An outage is everybody's; any other failure is looked at more closely. So is silence, if the store answers
    /// others: then it was what was asked.
    async fn away(&self, broken: Broken) -> Result<Broken, Away> {
        match &broken.failure {
            Failure::Store(error @ StoreError::Unavailable(_)) => Err(error.clone().into()),
            Failure::Store(error @ StoreError::Silent(_)) if self.store.probe().await.is_err() => {
                Err(error.clone().into())
            }
            _ => Ok(broken),
        }
    }

    /// Tries again at once, a few times, when another transaction was in the way.
    async fn handle_together(&self, queue: QueueName, batch: &Batch<'_>) -> Result<Vec<Fate>, Broken> {
        let mut delays = Delays::after_conflict();
        loop {
            match self.unit_of_work(queue, batch).await {
                Err(broken) if verdict(&broken.failure) == Verdict::AtOnce => match delays.next() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(broken),
                },
                outcome => return outcome,
            }
        }
    }

    async fn unit_of_work(&self, queue: QueueName, batch: &Batch<'_>) -> Result<Vec<Fate>, Broken> {
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        crash_points::here(CrashPoint::WorkerBegun);
        match self.fill(&mut uow, queue, batch).await {
            Ok(fates) => {
                uow.commit().await?;
                Ok(fates)
            }
            Err(broken) => {
                uow.rollback().await;
                Err(broken)
            }
        }
    }

    async fn fill(
        &self,
        uow: &mut UnitOfWork,
        queue: QueueName,
        batch: &Batch<'_>,
    ) -> Result<Vec<Fate>, Broken> {
        let receipts: Vec<_> = batch.iter().filter_map(|incoming| incoming.receipt().cloned()).collect();
        let sights = uow.first_sights(&receipts).await?;
        crash_points::here(CrashPoint::WorkerInboxWritten);
        let mut sights_of_readable = sights.iter();
        let mut footprint = Footprint::default();
        for envelope in batch.iter().filter_map(|incoming| incoming.decoded.as_ref().ok()) {
            if sights_of_readable.next() == Some(&Sight::First) {
                footprint.cover(&envelope.command);
            }
        }
        uow.load(&footprint).await?;
        let mut sights = sights.into_iter();
        let mut judged = Vec::with_capacity(batch.len());
        for incoming in batch {
            let begin = Instant::now();
            let sight = incoming.receipt().and_then(|_| sights.next());
            let outcome = self.judge(uow, queue, incoming, sight).await?;
            if incoming.redelivered
                && let Some(receipt) = incoming.receipt()
            {
                uow.ended(receipt);
            }
            let told_in = incoming.notified.get().map_or(Duration::ZERO, |(_, took)| *took);
            judged.push(outcome.map_err(|failure| (failure, told_in + begin.elapsed())));
        }
        self.record_failures(uow, batch, judged).await
    }

    /// The outer error breaks the unit of work; the inner one is this message's own affair.
    async fn judge(
        &self,
        uow: &mut UnitOfWork,
        queue: QueueName,
        incoming: &Incoming,
        sight: Option<Sight>,
    ) -> Result<Result<Fate, Failure>, Broken> {
        let envelope = match &incoming.decoded {
            Ok(envelope) => envelope,
            Err(undecodable) => return Ok(Err(undecodable.clone().into())),
        };
        if let Some(misplaced) = misplaced(queue, &envelope.command) {
            if sight == Some(Sight::First) {
                uow.leave_unhandled(&envelope.receipt);
            }
            return Ok(Err(misplaced.into()));
        }
        match (sight, incoming.notified.get()) {
            (Some(Sight::First), Some((Err(not_told), _))) => {
                uow.leave_unhandled(&envelope.receipt);
                Ok(Err(not_told.clone()))
            }
            (Some(Sight::First), _) => Ok(self.handle_one(uow, envelope).await?.map(|()| Fate::Handled)),
            (Some(Sight::OtherBody), _) => Ok(Err(Failure::OtherBody)),
            (Some(Sight::Repeat) | None, _) => {
                // A retry of what was handled by another copy has nothing left to do.
                if incoming.message.generation > 0 {
                    uow.handled(&envelope.receipt);
                }
                Ok(Ok(Fate::Repeat))
            }
        }
    }

    /// Both errors as above; the inner one is a rejection.
    async fn handle_one(
        &self,
        uow: &mut UnitOfWork,
        envelope: &Envelope,
    ) -> Result<Result<(), Failure>, Broken> {
        let begin = Instant::now();
        let broken = |failure| Broken { failure, took: begin.elapsed() };
        let guarded = AssertUnwindSafe(until_none_is_left(uow, envelope)).catch_unwind();
        match tokio::time::timeout(self.policy.handler_timeout, guarded).await {
            Ok(Ok(Ok(()))) => {
                uow.handled(&envelope.receipt);
                Ok(Ok(()))
            }
            Ok(Ok(Err(HandlerError::Rejected(rejection)))) => {
                uow.leave_unhandled(&envelope.receipt);
                Ok(Err(rejection.into()))
            }
            Ok(Ok(Err(HandlerError::Store(error)))) => Err(broken(error.into())),
            Ok(Err(panic)) => Err(broken(Failure::Panicked(panic_text(&*panic).to_owned()))),
            Err(_) => Err(broken(Failure::TimedOut(self.policy.handler_timeout))),
        }
    }

    /// Puts what failed into the ledger, in the same unit of work; unless its sender waits to be told.
    async fn record_failures(
        &self,
        uow: &mut UnitOfWork,
        batch: &Batch<'_>,
        judged: Vec<Result<Fate, (Failure, Duration)>>,
    ) -> Result<Vec<Fate>, Broken> {
        let failed: Vec<_> = batch
            .iter()
            .zip(&judged)
            .filter_map(|(incoming, outcome)| {
                let (failure, took) = outcome.as_ref().err().filter(|_| !incoming.awaited)?;
                let (message, redelivered) = (&incoming.message, incoming.redelivered);
                Some(Failed { key: incoming.key(), message, redelivered, failure, took: *took })
            })
            .collect();
        let mut next = uow.record_failures(&failed, &self.policy).await?.into_iter();
        let fate = |(incoming, outcome): (&&Incoming, _)| match outcome {
            Ok(fate) => Some(fate),
            Err((failure, _)) if incoming.awaited => Some(Fate::Refused(failure)),
            Err((failure, _)) => next.next().map(|next| Fate::Failed(failure, next)),
        };
        Ok(batch.iter().zip(judged).filter_map(fate).collect())
    }

    /// Records one failure in a unit of work of its own, unless the message was handled meanwhile.
    async fn record_alone(
        &self,
        queue: QueueName,
        incoming: &Incoming,
        broken: Broken,
    ) -> Result<Fate, Away> {
        if incoming.awaited {
            return Ok(Fate::Refused(broken.failure));
        }
        let mut delays = Delays::after_conflict();
        loop {
            match self.try_to_record(queue, incoming, &broken).await {
                Ok(fate) => return Ok(fate),
                Err(error) => match delays.next() {
                    Some(delay) if !matches!(error, StoreError::Unavailable(_) | StoreError::Silent(_)) => {
                        tokio::time::sleep(delay).await;
                    }
                    // What cannot be recorded is kept where it is, until it can.
                    _ => return Err(error.into()),
                },
            }
        }
    }

    async fn try_to_record(
        &self,
        queue: QueueName,
        incoming: &Incoming,
        broken: &Broken,
    ) -> Result<Fate, StoreError> {
        let Broken { failure, took } = broken;
        let mut uow = UnitOfWork::begin(&*self.store, queue).await?;
        if let Some(receipt) = incoming.receipt() {
            if incoming.redelivered {
                uow.ended(receipt);
            }
            match uow.first_sights(std::slice::from_ref(receipt)).await?.first() {
                Some(Sight::Repeat) => {
                    uow.commit().await?;
                    return Ok(Fate::Repeat);
                }
                Some(Sight::First) => uow.leave_unhandled(receipt),
                _ => {}
            }
        }
        let (message, redelivered) = (&incoming.message, incoming.redelivered);
        let failed = Failed { key: incoming.key(), message, redelivered, failure, took: *took };
        let next = uow.record_failures(&[failed], &self.policy).await?;
        uow.commit().await?;
        Ok(Fate::Failed(failure.clone(), next[0]))
    }
}

/// The table of contents: every command and the one handler it has, every event and the reactions to it.
async fn until_none_is_left(uow: &mut UnitOfWork, envelope: &Envelope) -> Result<(), HandlerError> {
    match &envelope.command {
        Command::CreateBatch(command) => handlers::create_batch(uow, command).await?,
        Command::Allocate(command) => handlers::allocate(uow, command)?,
        Command::Deallocate(command) => handlers::deallocate(uow, command)?,
        Command::ChangeBatchQuantity(command) => handlers::change_batch_quantity(uow, command).await?,
        Command::NotifyOutOfStock(_) => {} // People were told before the unit of work began.
    }
    crash_points::here_with(CrashPoint::WorkerMidHandler, &envelope.receipt.message_id);
    let mut events = VecDeque::from(uow.collect_events(envelope));
    while let Some(recorded) = events.pop_front() {
        match recorded.event {
            Event::Allocated { orderid, sku, qty, batchref } => {
                uow.show(orderid, sku, ViewState::Allocated(qty, batchref));
            }
            Event::OutOfStock { orderid, sku, qty } => uow.show(orderid, sku, ViewState::Backordered(qty)),
            Event::BackorderCancelled { orderid, sku } => uow.show(orderid, sku, ViewState::Gone),
            Event::Deallocated { orderid, sku, .. } => {
                uow.show(orderid.clone(), sku.clone(), ViewState::Gone);
                handlers::reallocate(uow, &orderid, &sku).await?;
            }
        }
        events.extend(uow.collect_events(envelope));
    }
    Ok(())
}

/// People are told from a queue of their own, so that nobody else ever waits for a mail server.
fn misplaced(queue: QueueName, command: &Command) -> Option<Undecodable> {
    let tells_people = matches!(command, Command::NotifyOutOfStock(_));
    let (name, queue_name) = (command.name(), queue.as_str());
    (tells_people != (queue == QueueName::Notifications))
        .then(|| Undecodable::UnknownCommand(format!("{name} does not belong into the queue {queue_name}")))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}
