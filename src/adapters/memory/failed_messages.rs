//! Failed messages, with the transitions of the domain.

use std::collections::HashMap;

use crate::{
    domain::{FailedMessage, FailedMessageKey, MessageKey, NewAttempt, Status},
    ports::queue::QueueName,
};

/// The failed messages of all queues.
#[derive(Default)]
pub(super) struct FailedMessageTable {
    rows: HashMap<(QueueName, FailedMessageKey), FailedMessage>,
}

impl FailedMessageTable {
    /// The counted attempts of a message that is retrying; 0 for any other.
    pub(super) fn count_attempts(&self, queue: QueueName, key: &FailedMessageKey) -> u32 {
        let row = self.rows.get(&(queue, key.clone()));
        row.filter(|row| row.status == Status::Retrying).map_or(0, |row| row.attempts)
    }

    /// Records a failed attempt; false if it is recorded already.
    pub(super) fn record(&mut self, queue: QueueName, attempt: &NewAttempt) -> bool {
        let key = (queue, attempt.key.clone());
        if let Some(row) = self.rows.get_mut(&key) {
            return row.record(attempt).is_some();
        }
        let id = i64::try_from(self.rows.len()).unwrap_or(i64::MAX);
        self.rows.insert(key, FailedMessage::new(id, attempt));
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
            row.resolve();
        }
    }
}
