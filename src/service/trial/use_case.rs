//! The use case: dry runs until all messages could be tried, or the time is over.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    ports::{
        answered::MissingAnswers,
        dry_run::{DryRuns, RetryDelivery},
        error::StoreError,
        queue::QueueName,
        store::LockMode,
    },
    service::{decode::Limits, policy::FailurePolicy},
};

use super::{
    options::TrialOptions,
    pass::{Ended, Interruption, Pass},
    report::TrialReport,
    tried_message::TriedMessage,
};

/// The time of all dry runs together.
const TOTAL_TIME: Duration = Duration::from_secs(5);
/// How long locks of other sessions are awaited. Each wait is short, and nothing is locked between two of them.
const LOCK_TIME: Duration = Duration::from_secs(1);
/// After this time no lock is awaited: each of many locked rows takes a part of it.
const MANY_LOCKS_TIME: Duration = Duration::from_secs(3);
/// The pause between two waits.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why nothing is known about a retry.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of this program.
    #[error("a defect of this program: {0}")]
    Missing(#[from] MissingAnswers),
}

/// Handles failed messages in dry runs.
pub struct Trial {
    /// Begins dry runs.
    pub dry_runs: Arc<dyn DryRuns>,
    /// Says what a consumer would receive.
    pub delivery: Arc<dyn RetryDelivery>,
    /// How failures are treated by the workers.
    pub policy: FailurePolicy,
    /// The limits of messages.
    pub limits: Limits,
    /// The recipients of mails.
    pub mail_to: String,
}

impl Trial {
    /// Handles failed messages in the order in which a retry would take them, and reports what would happen to each that
    /// exists. All are handled in one dry run, so that one sees what the others change. Nothing is changed.
    ///
    /// # Errors
    /// The store failed before anything was known.
    pub async fn run(&self, ids: &[i64], options: TrialOptions) -> Result<Vec<TrialReport>, TrialError> {
        let mut tried = Tried::default();
        match timeout(TOTAL_TIME, self.try_all(ids, options, &mut tried)).await {
            Ok(Err(Interruption::Store(error))) => return Err(error.into()),
            Ok(Err(Interruption::Missing(missing))) => return Err(missing.into()),
            Ok(Ok(())) => {}
            Err(_) if tried.as_of.is_some() => {}
            Err(_) => {
                return Err(StoreError::Timeout(format!("no answer within {TOTAL_TIME:?}").into()).into());
            }
        }
        Ok(tried.reports())
    }

    /// While a lock is awaited, nothing that another session needs is locked. Therefore each partition key is tried on its
    /// own until it is known which messages are locked; then all others are tried together.
    async fn try_all(
        &self,
        ids: &[i64],
        options: TrialOptions,
        tried: &mut Tried,
    ) -> Result<(), Interruption> {
        let begin = Instant::now();
        let mut locked = BTreeSet::new();
        while let Ended::Locked = self.dry_run(ids, &locked, options, LockMode::Wait, tried).await? {
            if begin.elapsed() >= MANY_LOCKS_TIME {
                self.dry_run(ids, &locked, options, LockMode::Skip, tried).await?;
                break;
            }
            locked = self.locked_since(begin, tried.by_partition_key(), options).await?;
        }
        Ok(())
    }

    /// The messages that are still locked after the time for locks. A row that workers use all the time is not among them:
    /// none of their transactions is long.
    async fn locked_since(
        &self,
        begin: Instant,
        groups: Vec<Vec<i64>>,
        options: TrialOptions,
    ) -> Result<BTreeSet<i64>, Interruption> {
        let none = BTreeSet::new();
        loop {
            let mut locked = BTreeSet::new();
            for group in &groups {
                let wait = begin.elapsed() < MANY_LOCKS_TIME;
                let locks = if wait { LockMode::Wait } else { LockMode::Skip };
                let mut tried = Tried::default();
                let ended = self.dry_run(group, &none, options, locks, &mut tried).await?;
                if ended == Ended::Locked || tried.is_any_busy() {
                    locked.extend(group);
                }
            }
            if locked.is_empty() || begin.elapsed() >= LOCK_TIME {
                return Ok(locked);
            }
            sleep(LOCK_PAUSE).await;
        }
    }

    async fn dry_run(
        &self,
        ids: &[i64],
        locked: &BTreeSet<i64>,
        options: TrialOptions,
        locks: LockMode,
        tried: &mut Tried,
    ) -> Result<Ended, Interruption> {
        *tried = Tried::default();
        let mut dry_run = self.dry_runs.begin().await?;
        let found = dry_run.failed_messages(ids).await?;
        for message in found.messages {
            let mut message = TriedMessage::new(message, &*self.delivery, self.limits, options)?;
            if message.is_open() && locked.contains(&message.id()) {
                message.busy(&StoreError::Locked("needed rows are locked".into()).into());
            }
            tried.messages.push(message);
        }
        tried.as_of = Some(found.as_of);
        let pass = Pass::new(dry_run.store(), &self.policy, &self.mail_to, locks);
        let ended = tried.handle(&pass).await;
        dry_run.rollback().await;
        tried.warn_of_overtaken();
        ended
    }
}

/// The messages of a dry run.
#[derive(Default)]
struct Tried {
    as_of: Option<OffsetDateTime>,
    messages: Vec<TriedMessage>,
}

impl Tried {
    /// Handles the messages that have no conclusion; neighbours of the same queue share a unit of work.
    async fn handle(&mut self, pass: &Pass) -> Result<Ended, Interruption> {
        let mut open: Vec<_> = self.messages.iter_mut().filter(|message| message.is_open()).collect();
        for group in open.chunk_by_mut(|one, next| one.queue == next.queue) {
            if pass.handle(group[0].queue, group).await? == Ended::Locked {
                return Ok(Ended::Locked);
            }
        }
        Ok(Ended::Complete)
    }

    fn is_any_busy(&self) -> bool {
        self.messages.iter().any(TriedMessage::is_busy)
    }

    /// The ids of the messages of each partition key, and of each message without one.
    fn by_partition_key(&self) -> Vec<Vec<i64>> {
        let mut groups: BTreeMap<(QueueName, &str), Vec<i64>> = BTreeMap::new();
        let mut others = Vec::new();
        for message in &self.messages {
            match message.received.partition_key() {
                Some(key) => groups.entry((message.queue, key)).or_default().push(message.id()),
                None => others.push(vec![message.id()]),
            }
        }
        groups.into_values().chain(others).collect()
    }

    /// A dead message that is not handled with them may be overtaken by them.
    fn warn_of_overtaken(&mut self) {
        let succeed = |message: &&TriedMessage| message.would_succeed();
        let succeeding: HashSet<_> = self.messages.iter().filter(succeed).map(TriedMessage::id).collect();
        for message in &mut self.messages {
            if let Some(id) = message.overtakes().filter(|id| !succeeding.contains(id)) {
                message.warn(format!(
                    "message {id}, an earlier one for the same line or batch, is not handled and would be overtaken"
                ));
            }
        }
    }

    fn reports(self) -> Vec<TrialReport> {
        let as_of = self.as_of.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let unfinished =
            format!("not tried: a dry run ends after {}", humantime::format_duration(TOTAL_TIME));
        self.messages.into_iter().map(|message| message.report(as_of, &unfinished)).collect()
    }
}
