//! The record of a failed attempt.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    domain::{FailedMessageKey, NewAttempt, OrderingKey, RetryDecision},
    ports::{
        error::{error_chain, error_text},
        queue::{Message, QueueName},
        routing,
        text::sanitize,
    },
};

use super::{
    failure::{Failure, decide},
    policy::FailurePolicy,
};

/// A failed message of a unit of work.
pub(super) struct FailureRecord<'a> {
    /// Its index in the unit of work.
    pub(super) index: usize,
    pub(super) key: FailedMessageKey,
    pub(super) message: &'a Message,
    pub(super) ordering_key: Option<OrderingKey>,
    /// 0 for a message from a sender.
    pub(super) generation: i64,
    /// The command that has overtaken it in the unit of work.
    pub(super) overtaken_by: Option<Arc<str>>,
    pub(super) failure: Failure,
    pub(super) took: Duration,
    /// The trace in which the failure is recorded.
    pub(super) trace_id: Option<String>,
}

/// `before` is the number of earlier attempts.
pub(super) fn new_attempt(
    queue: QueueName,
    failed: &FailureRecord<'_>,
    before: u32,
    policy: &FailurePolicy,
) -> NewAttempt {
    let FailureRecord { key, message, generation, failure, took, .. } = failed;
    let next = decide(failure, before + 1, *generation, &policy.retry);
    let reason = match next {
        RetryDecision::Dead(reason) => reason.as_str(),
        RetryDecision::Retry(_) | RetryDecision::Postpone(_) | RetryDecision::Wait => "",
    };
    let attempts = if next.was_attempted() { before + 1 } else { before };
    let error_pattern = sanitize(&failure.error_pattern());
    NewAttempt {
        key: key.clone(),
        ordering_key: failed.ordering_key.clone(),
        overtaken_by: failed.overtaken_by.clone(),
        generation: *generation,
        error_group: group(queue, &key.kind, reason, &error_pattern),
        body: message.body.clone(),
        properties: message.original.as_ref().map_or_else(|| "{}".into(), |original| original.to_json()),
        original: message.original.as_ref().map(|original| original.to_bytes()).unwrap_or_default(),
        error: error_text(failure),
        error_pattern,
        chain: error_chain(failure),
        attempts,
        duration: *took,
        host: policy.host.clone(),
        trace_id: failed.trace_id.clone(),
        next,
    }
}

/// The id of a group: 64 bits of a hash of what its failures have in common. A sender chooses a part of it, and must not find the id of
/// another group; and senders can choose any number of unknown types, so these are one.
fn group(queue: QueueName, kind: &str, reason: &str, error_pattern: &str) -> String {
    let kind = if routing::queue_of(kind).is_some() { kind } else { "…" };
    let digest = Sha256::digest([queue.as_str(), kind, reason, error_pattern].join("\n"));
    let mut id = [0; size_of::<u64>()];
    id.copy_from_slice(&digest[..size_of::<u64>()]);
    format!("{:016x}", u64::from_be_bytes(id))
}

/// The same with every text in ASCII, which each database can store. Body and original properties are bytes.
pub(super) fn in_ascii(attempt: NewAttempt) -> NewAttempt {
    let FailedMessageKey { message_id, kind, body_hash } = attempt.key;
    let message_id = message_id.map(|id| ascii(&id).into());
    NewAttempt {
        key: FailedMessageKey { message_id, kind: ascii(&kind), body_hash },
        properties: ascii(&attempt.properties),
        error: ascii(&attempt.error),
        error_pattern: ascii(&attempt.error_pattern),
        ordering_key: None,
        chain: attempt.chain.iter().map(|link| ascii(link)).collect(),
        ..attempt
    }
}

/// Writes other characters as JSON does, so that a JSON text keeps its meaning.
fn ascii(text: &str) -> String {
    text.encode_utf16()
        .map(|unit| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            _ => format!("\\u{unit:04x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_one_cause_and_unknown_types_are_one_group() {
        let orders = QueueName::Orders;
        let first = group(orders, "allocate", "rejected", "Invalid sku");
        assert_eq!(first.len(), 16);
        assert_ne!(first, group(QueueName::Stock, "allocate", "rejected", "Invalid sku"));
        assert_ne!(first, group(orders, "deallocate", "rejected", "Invalid sku"));
        assert_ne!(first, group(orders, "allocate", "", "Invalid sku"));
        assert_ne!(first, group(orders, "allocate", "rejected", "Invalid batchref"));
        let unknown = |kind| group(orders, kind, "unknown_command", "unknown command type …");
        // With 32 bits these two types had one id.
        assert_eq!(unknown("t93232"), unknown("t132013"));
        assert_ne!(unknown("t93232"), unknown("allocate"));
    }

    #[test]
    fn json_in_ascii_keeps_its_meaning() {
        let json = serde_json::json!({ "名": "日本 \u{1f4a1} \n", "b": 1 }).to_string();
        let ascii = ascii(&json);
        assert!(ascii.is_ascii(), "{ascii}");
        let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(read(&ascii), read(&json));
    }
}
