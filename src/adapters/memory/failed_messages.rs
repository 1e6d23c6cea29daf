//! Failed messages, with the transitions of the domain, and the schedule of their retries.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    domain::{FailedMessage, FailedMessageKey, MessageKey, NewAttempt, RetryDecision, Status},
    ports::{
        failed_messages::DueRetry,
        queue::{QueueName, RetryMark},
        store::RetryCheck,
    },
};

/// The delay of a retry that could not be published.
const DEFER_BY: Duration = Duration::from_secs(5);

/// The failed messages of all queues.
#[derive(Default)]
pub(super) struct FailedMessageTable {
    rows: HashMap<(QueueName, FailedMessageKey), Row>,
}

struct Row {
    message: FailedMessage,
    queue: QueueName,
    /// The latest attempt.
    attempt: NewAttempt,
    /// When a copy is due; `None` if it is published, or if the message is not retrying.
    due_at: Option<Instant>,
}

impl Row {
    fn new(id: i64, queue: QueueName, attempt: &NewAttempt) -> Self {
        let message = FailedMessage::new(id, attempt);
        Self { message, queue, attempt: attempt.clone(), due_at: due_at(attempt) }
    }

    /// Makes the marks of its copies genuine.
    fn secret(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.message.id.unsigned_abs()))
    }

    fn is_retrying(&self) -> bool {
        self.message.status == Status::Retrying
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
        RetryDecision::Retry(delay) => Some(Instant::now() + delay),
        RetryDecision::Dead(_) => None,
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
                row.attempt = attempt.clone();
                row.due_at = due_at(attempt);
            }
            return counts;
        }
        let id = i64::try_from(self.rows.len()).unwrap_or(i64::MAX);
        self.rows.insert(key, Row::new(id, queue, attempt));
        true
    }

    /// Resolves a message that was handled.
    pub(super) fn resolve(&mut self, queue: QueueName, handled: &MessageKey) {
        let MessageKey { message_id, kind, body_hash } = handled;
        let key = FailedMessageKey {
            message_id: Some(message_id.clone()),
            kind: (*kind).to_owned(),
            body_hash: *body_hash,
        };
        if let Some(row) = self.rows.get_mut(&(queue, key)) {
            row.message.resolve();
            row.due_at = None;
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
        let next = self.rows.values().filter_map(|row| row.due_at).min();
        next.map(|due_at| due_at.saturating_duration_since(Instant::now()))
    }

    /// Retries that are due, the longest due first: at most so many, and at most so many bytes, but at least one.
    pub(super) fn due(&self, at_most: usize, at_most_bytes: usize) -> Vec<DueRetry> {
        let now = Instant::now();
        let mut due: Vec<_> =
            self.rows.values().filter(|row| row.due_at.is_some_and(|at| at <= now)).collect();
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
        self.current(retries).for_each(|row| row.due_at = None);
    }

    /// Defers retries that could not be published.
    pub(super) fn defer(&mut self, retries: &[&DueRetry]) {
        let due_at = Instant::now() + DEFER_BY;
        self.current(retries).for_each(|row| row.due_at = Some(due_at));
    }

    /// Notes that a copy can never be published: its message is dead.
    pub(super) fn reject(&mut self, retry: &DueRetry) {
        for row in self.current(&[retry]) {
            row.message.reject(retry.generation);
            row.due_at = None;
        }
    }

    /// The messages whose current copies these are.
    fn current<'a>(&'a mut self, retries: &'a [&DueRetry]) -> impl Iterator<Item = &'a mut Row> {
        let is_current = |row: &Row, retry: &DueRetry| {
            row.is_retrying() && (row.message.id, row.message.generation) == (retry.id, retry.generation)
        };
        self.rows.values_mut().filter(move |row| retries.iter().any(|retry| is_current(row, retry)))
    }
}
