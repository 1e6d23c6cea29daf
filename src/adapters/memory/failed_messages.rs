//! Failed messages, with the transitions of the domain, and the schedule of their retries.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    domain::{FailedMessage, FailedMessageKey, MessageKey, NewAttempt, OrderingKey, RetryDecision, Status},
    ports::{
        dry_run::RetriableMessage,
        failed_messages::{DueRetry, rejected_retry_error},
        outbox::Retention,
        queue::{QueueName, RetryMark},
        store::{OrderCheck, OrderedMessage, Overtaking, OwnFailedMessage, RetryCheck},
    },
};

/// The delay of a retry that could not be published.
const DEFER_BY: Duration = Duration::from_secs(5);
/// A copy that was not handled for so long may be lost.
const LOST_AFTER: Duration = Duration::from_hours(1);

/// The failed messages of all queues.
#[derive(Clone, Default)]
pub(super) struct FailedMessageTable {
    rows: HashMap<(QueueName, FailedMessageKey), Row>,
    last_id: i64,
}

/// A failed message, for tests and reports.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedFailure {
    /// Its message id.
    pub message_id: Option<String>,
    /// Its status.
    pub status: Status,
    /// The latest error.
    pub error: String,
    /// Why its retry could not be published at the last try.
    pub held_because: Option<String>,
    /// The message id of the last command that has overtaken it.
    pub overtaken_by: Option<String>,
}

#[derive(Clone)]
struct Row {
    message: FailedMessage,
    queue: QueueName,
    /// The latest attempt.
    attempt: NewAttempt,
    /// When a copy is due; `None` if the message is not retrying.
    due_at: Option<Instant>,
    /// When the current copy was published.
    published_at: Option<Instant>,
    held_because: Option<String>,
    /// When it was resolved.
    ended_at: Option<Instant>,
}

impl Row {
    fn new(id: i64, queue: QueueName, attempt: &NewAttempt) -> Self {
        let message = FailedMessage::new(id, attempt);
        Self {
            message,
            queue,
            attempt: attempt.clone(),
            due_at: due_at(attempt),
            published_at: None,
            held_because: None,
            ended_at: None,
        }
    }

    /// Makes the marks of its copies genuine.
    fn secret(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.message.id.unsigned_abs()))
    }

    fn has_key(&self, key: &OrderingKey) -> bool {
        self.attempt.ordering_key.as_ref() == Some(key)
    }

    fn is_dead_or_discarded(&self) -> bool {
        matches!(self.message.status, Status::Dead(_) | Status::Discarded(_))
    }

    fn is_retrying(&self) -> bool {
        self.message.status == Status::Retrying
    }

    /// The time of the next publication of a copy.
    fn next_publication(&self) -> Option<Instant> {
        self.due_at.filter(|_| self.published_at.is_none())
    }

    /// Whether the current copy may be lost. It is published again after 1, 2, 4, 8 hours.
    fn may_be_lost(&self) -> bool {
        let (Some(due_at), Some(published_at)) = (self.due_at, self.published_at) else { return false };
        let waited = published_at.elapsed();
        waited > LOST_AFTER && waited > published_at.saturating_duration_since(due_at)
    }

    fn is_expired(&self, retention: Retention) -> bool {
        let keep_for = match self.message.status {
            Status::Retrying | Status::Waiting | Status::Dead(_) => return false,
            Status::Resolved => retention.failures,
            Status::Discarded(_) => retention.failures.max(retention.inbox),
        };
        self.ended_at.is_some_and(|ended_at| ended_at.elapsed() > keep_for)
    }

    fn retry(&self) -> DueRetry {
        DueRetry {
            id: self.message.id,
            generation: self.message.generation,
            queue: self.queue.as_str().to_owned(),
            message_id: self.attempt.key.message_id.as_deref().map(str::to_owned),
            kind: self.attempt.key.kind.clone(),
            body: self.attempt.body.to_vec(),
            original: self.attempt.original.clone(),
            edited: false,
            secret: self.secret(),
        }
    }
}

fn due_at(attempt: &NewAttempt) -> Option<Instant> {
    match attempt.next {
        RetryDecision::Retry(delay) | RetryDecision::Postpone(delay) => Some(Instant::now() + delay),
        RetryDecision::Dead(_) | RetryDecision::Wait => None,
    }
}

impl FailedMessageTable {
    /// The counted attempts of a message that is retrying; 0 for any other.
    pub(super) fn count_attempts(&self, queue: QueueName, key: &FailedMessageKey) -> u32 {
        let row = self.rows.get(&(queue, key.clone()));
        row.filter(|row| row.is_retrying()).map_or(0, |row| row.message.attempts)
    }

    /// Records a failed attempt; false if it is recorded already.
    pub(super) fn record(&mut self, queue: QueueName, attempt: &NewAttempt) -> bool {
        let key = (queue, attempt.key.clone());
        if let Some(row) = self.rows.get_mut(&key) {
            let counts = row.message.record(attempt).is_some();
            if counts {
                let before = row.attempt.overtaken_by.take().filter(|_| row.message.overtaken);
                row.attempt = attempt.clone();
                row.attempt.overtaken_by = attempt.overtaken_by.clone().or(before);
                row.due_at = due_at(attempt);
                (row.published_at, row.ended_at) = (None, None);
            }
            return counts;
        }
        self.last_id += 1;
        self.rows.insert(key, Row::new(self.last_id, queue, attempt));
        true
    }

    /// Resolves a message that was handled.
    pub(super) fn resolve(&mut self, queue: QueueName, handled: &MessageKey) {
        if let Some(row) = self.rows.get_mut(&(queue, FailedMessageKey::from(handled))) {
            if row.message.resolve().is_some() {
                row.ended_at = Some(Instant::now());
            }
            row.due_at = None;
        }
    }

    /// The place of a command in the order of its key.
    pub(super) fn check_order(&self, queue: QueueName, ordered: &OrderedMessage) -> OrderCheck {
        let own = self.rows.get(&(queue, FailedMessageKey::from(&ordered.message))).map(|row| &row.message);
        let is_earlier =
            |row: &&Row| row.has_key(&ordered.key) && own.is_none_or(|own| row.message.id < own.id);
        let mut check = OrderCheck {
            own: own.map(|own| OwnFailedMessage {
                id: own.id,
                status: own.status.kind(),
                attempts: if own.status == Status::Retrying { own.attempts } else { 0 },
                overtaken: own.overtaken,
            }),
            ..OrderCheck::default()
        };
        for row in self.rows.values().filter(is_earlier) {
            check.is_behind |= row.message.status.is_open();
            check.overtakes |= row.is_dead_or_discarded();
        }
        check
    }

    /// Notes that a command has overtaken the dead and discarded messages with its key.
    pub(super) fn overtake(&mut self, overtaking: &Overtaking) {
        let is_earlier = |row: &&mut Row| {
            row.has_key(&overtaking.key)
                && row.is_dead_or_discarded()
                && overtaking.own.is_none_or(|own| row.message.id < own)
        };
        for row in self.rows.values_mut().filter(is_earlier) {
            row.message.overtaken = true;
            row.attempt.overtaken_by = Some(overtaking.message_id.clone());
        }
    }

    /// Tries the earliest open message with a key, if it waits.
    pub(super) fn release(&mut self, key: &OrderingKey) {
        let open = self.rows.values_mut().filter(|row| row.has_key(key) && row.message.status.is_open());
        if let Some(first) = open.min_by_key(|row| row.message.id)
            && first.message.release().is_some()
        {
            (first.due_at, first.published_at) = (Some(Instant::now()), None);
        }
    }

    /// Whether a copy with this mark is the current one.
    pub(super) fn check_retry(&self, queue: QueueName, mark: &RetryMark) -> RetryCheck {
        let is_genuine = |row: &&Row| {
            row.message.id == mark.failed_message_id && row.queue == queue && row.secret() == mark.secret
        };
        match self.rows.values().find(is_genuine) {
            Some(row) if row.is_retrying() && row.message.generation == mark.generation => {
                RetryCheck::Current
            }
            Some(_) => RetryCheck::Outdated,
            None => RetryCheck::Unknown,
        }
    }

    /// The time until the next retry is due.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        let next = self.rows.values().filter_map(Row::next_publication).min();
        next.map(|due_at| due_at.saturating_duration_since(Instant::now()))
    }

    /// Retries that are due, the longest due first: at most so many, and at most so many bytes, but at least one.
    pub(super) fn due(&self, at_most: usize, at_most_bytes: usize) -> Vec<DueRetry> {
        let now = Instant::now();
        let mut due: Vec<_> =
            self.rows.values().filter(|row| row.next_publication().is_some_and(|at| at <= now)).collect();
        due.sort_unstable_by_key(|row| (row.due_at, row.message.id));
        let mut bytes = 0;
        let mut fits = |retry: &DueRetry| {
            bytes += retry.body.len();
            bytes == retry.body.len() || bytes <= at_most_bytes
        };
        due.into_iter().take(at_most).map(Row::retry).take_while(&mut fits).collect()
    }

    /// Notes that copies were published.
    pub(super) fn published(&mut self, retries: &[&DueRetry]) {
        for row in self.current(retries) {
            (row.published_at, row.held_because) = (Some(Instant::now()), None);
        }
    }

    /// Notes why copies could not be published, and defers them.
    pub(super) fn defer(&mut self, retries: &[&DueRetry], reason: &str) {
        let due_at = Instant::now() + DEFER_BY;
        for row in self.current(retries) {
            (row.due_at, row.held_because) = (Some(due_at), Some(reason.to_owned()));
        }
    }

    /// Notes that a copy can never be published: its message is dead.
    pub(super) fn reject(&mut self, retry: &DueRetry, reason: &str) {
        let mut key = None;
        for row in self.current(&[retry]) {
            row.message.reject(retry.generation);
            row.due_at = None;
            row.attempt.error = rejected_retry_error(reason);
            row.attempt.error_pattern.clone_from(&row.attempt.error);
            key.clone_from(&row.attempt.ordering_key);
        }
        if let Some(key) = key {
            self.release(&key);
        }
    }

    /// Removes expired messages, and makes retries due again whose copies may be lost.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn purge(&mut self, retention: Retention) {
        self.rows.retain(|_, row| !row.is_expired(retention));
        for row in self.rows.values_mut().filter(|row| row.may_be_lost()) {
            row.published_at = None;
        }
        let waiting = self.rows.values().filter(|row| row.message.status == Status::Waiting);
        let keys: HashSet<_> = waiting.filter_map(|row| row.attempt.ordering_key.clone()).collect();
        for key in keys {
            self.release(&key);
        }
    }

    /// The ids of messages that are not resolved.
    pub(super) fn unresolved(&self) -> HashSet<(QueueName, Arc<str>)> {
        let unresolved = self.rows.values().filter(|row| row.message.status != Status::Resolved);
        unresolved.filter_map(|row| Some((row.queue, row.attempt.key.message_id.clone()?))).collect()
    }

    /// A message, and what a retry of it would publish; `is_handled` says whether the inbox has a message of a queue.
    pub(super) fn retriable(
        &self,
        id: i64,
        is_handled: impl Fn(QueueName, &FailedMessageKey) -> bool,
    ) -> Option<RetriableMessage> {
        let row = self.rows.values().find(|row| row.message.id == id)?;
        let key = row.attempt.ordering_key.as_ref();
        let earlier = |counts: fn(&Row) -> bool| {
            let rows = self.rows.values().filter(|other| other.message.id < id && counts(other));
            rows.filter(|other| key.is_some_and(|key| other.has_key(key))).map(|other| other.message.id).min()
        };
        Some(RetriableMessage {
            failed: FailedMessage { handled: is_handled(row.queue, &row.attempt.key), ..row.message.clone() },
            error: row.attempt.error.clone(),
            overtaken_by: row.attempt.overtaken_by.as_deref().map(str::to_owned),
            behind: earlier(|row| row.message.status.is_open()),
            overtakes: earlier(Row::is_dead_or_discarded),
            copy: row.retry(),
        })
    }

    /// The message with an id.
    pub(super) fn recorded(&self, id: i64) -> Option<RecordedFailure> {
        let row = self.rows.values().find(|row| row.message.id == id)?;
        Some(RecordedFailure {
            message_id: row.attempt.key.message_id.as_deref().map(str::to_owned),
            status: row.message.status,
            error: row.attempt.error.clone(),
            held_because: row.held_because.clone(),
            overtaken_by: row.attempt.overtaken_by.as_deref().map(str::to_owned),
        })
    }

    /// The messages whose current copies these are.
    fn current<'a>(&'a mut self, retries: &'a [&DueRetry]) -> impl Iterator<Item = &'a mut Row> {
        let is_current = |row: &Row, retry: &DueRetry| {
            row.is_retrying() && (row.message.id, row.message.generation) == (retry.id, retry.generation)
        };
        self.rows.values_mut().filter(move |row| retries.iter().any(|retry| is_current(row, retry)))
    }
}
