//! What a unit of work may handle: the inbox knows what was handled before, the ledger which copy of a failed message is
//! the current one.

use std::collections::HashMap;

use crate::ports::{
    error::StoreError,
    queue::QueueName,
    store::{InboxCheck, RetryCheck},
};

use super::{
    decode::DecodeError, dispatch::check_queue, received::ReceivedMessage, unit_of_work::UnitOfWork,
};

/// A message of a unit of work, checked.
pub(super) struct CheckedMessage {
    pub(super) admission: MessageCheck,
    /// The generation of the copy; 0 for a message from a sender, or one whose retry mark is not genuine.
    pub(super) generation: i64,
}

/// What is to be done with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MessageCheck {
    /// It is handled.
    New,
    /// It was handled before.
    Duplicate,
    /// It is the same as this earlier message of the unit of work, and shares its fate.
    CopyOf(usize),
    /// Its failed message has changed since this copy was published: it is neither handled nor recorded.
    Outdated,
    /// Its id belongs to another message.
    BodyMismatch,
    /// It cannot be read, or belongs into another queue.
    Rejected(DecodeError),
}

/// Checks the messages of a unit of work. The inbox has those that are new now; it forgets those that cannot be handled.
pub(super) async fn check(
    uow: &mut UnitOfWork,
    queue: QueueName,
    batch: &[&ReceivedMessage],
) -> Result<Vec<CheckedMessage>, StoreError> {
    let copies = copies(batch);
    let originals: Vec<_> = (0..batch.len()).filter(|i| copies[*i].is_none()).collect();
    let keys: Vec<_> = originals.iter().filter_map(|&i| batch[i].message_key().cloned()).collect();
    let inbox_checks = uow.check_inbox(&keys).await?;
    let inbox_checks: HashMap<_, _> = keys.iter().map(|key| &*key.message_id).zip(inbox_checks).collect();
    let marks: Vec<_> = originals.iter().filter_map(|&i| batch[i].message.retry).collect();
    let retries = uow.check_retries(&marks).await?;
    let retries: HashMap<_, _> = marks.into_iter().zip(retries).collect();
    let mut checked = Vec::with_capacity(batch.len());
    for (received, copy_of) in batch.iter().zip(copies) {
        let key = received.message_key();
        let inbox_check = key.and_then(|key| inbox_checks.get(&*key.message_id).copied());
        let mark = received.message.retry;
        let retry = mark.and_then(|mark| retries.get(&mark).copied());
        let refusal = match &received.decoded {
            Ok(envelope) => check_queue(queue, &envelope.command),
            Err(undecodable) => Some(undecodable.clone()),
        };
        let admission = match copy_of {
            Some(original) => MessageCheck::CopyOf(original),
            None => admission(inbox_check, retry, refusal),
        };
        if let Some(key) = key
            && inbox_check == Some(InboxCheck::New)
            && matches!(admission, MessageCheck::Outdated | MessageCheck::Rejected(_))
        {
            uow.forget(key);
        }
        let is_current = retry == Some(RetryCheck::Current);
        let generation = mark.filter(|_| is_current).map_or(0, |mark| mark.generation);
        checked.push(CheckedMessage { admission, generation });
    }
    Ok(checked)
}

fn admission(
    inbox_check: Option<InboxCheck>,
    retry: Option<RetryCheck>,
    refusal: Option<DecodeError>,
) -> MessageCheck {
    match (retry, refusal, inbox_check) {
        (Some(RetryCheck::Outdated), ..) => MessageCheck::Outdated,
        (_, Some(refusal), _) => MessageCheck::Rejected(refusal),
        (_, None, Some(InboxCheck::BodyMismatch)) => MessageCheck::BodyMismatch,
        (_, None, Some(InboxCheck::New)) => MessageCheck::New,
        // What can be read has a receipt, and the inbox has judged it.
        (_, None, Some(InboxCheck::Duplicate) | None) => MessageCheck::Duplicate,
    }
}

/// For each message, the earlier one with the same id, if there is one.
fn copies(batch: &[&ReceivedMessage]) -> Vec<Option<usize>> {
    let mut first = HashMap::new();
    let mut copies = Vec::with_capacity(batch.len());
    for (i, received) in batch.iter().enumerate() {
        let id = received.message_key().map(|key| &key.message_id);
        let original = id.map(|id| *first.entry(id).or_insert(i));
        copies.push(original.filter(|original| *original != i));
    }
    copies
}

/// Divides messages into runs that may each be one unit of work: in a run all messages of one id are copies of the first.
/// One that has the id of an earlier message and differs from it begins the next run, so that the order is kept.
pub(super) fn runs<'a, 'b>(batch: &'b [&'a ReceivedMessage]) -> Vec<&'b [&'a ReceivedMessage]> {
    let mut runs = Vec::new();
    let mut begin = 0;
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (i, received) in batch.iter().enumerate() {
        let Some(key) = received.message_key() else { continue };
        let earlier = ids.get(&*key.message_id).copied();
        if earlier.is_some_and(|earlier| !received.is_copy_of(batch[earlier])) {
            runs.push(&batch[begin..i]);
            begin = i;
            ids.clear();
        }
        ids.entry(&key.message_id).or_insert(i);
    }
    runs.push(&batch[begin..]);
    runs
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        ports::queue::{Message, RetryMark},
        service::{decode::Limits, received::ReceivedMessage},
    };

    fn line(id: &str, order: &str) -> ReceivedMessage {
        let message = Message {
            kind: "deallocate".into(),
            message_id: Some(id.into()),
            body: format!(r#"{{"orderid": "{order}", "sku": "LAMP"}}"#).into_bytes(),
            ..Message::default()
        };
        ReceivedMessage::read(message, false, Limits { body_bytes: 1000, header_bytes: 1000 })
    }

    fn copy(mut line: ReceivedMessage, generation: i64) -> ReceivedMessage {
        line.message.retry = Some(RetryMark { failed_message_id: 1, generation, secret: Uuid::nil() });
        line
    }

    fn lengths(batch: &[ReceivedMessage]) -> Vec<usize> {
        let batch: Vec<_> = batch.iter().collect();
        runs(&batch).iter().map(|run| run.len()).collect()
    }

    #[test]
    fn different_messages_and_copies_are_one_run() {
        assert_eq!(lengths(&[line("a", "1"), line("b", "1"), line("a", "1"), line("c", "1")]), [4]);
        assert_eq!(lengths(&[copy(line("a", "1"), 2), copy(line("a", "1"), 2)]), [2]);
    }

    #[test]
    fn another_message_under_a_known_id_begins_a_run() {
        let (original, other) = (|| line("a", "1"), || line("a", "2"));
        assert_eq!(lengths(&[original(), line("b", "1"), other(), line("b", "1")]), [2, 2]);
        assert_eq!(lengths(&[original(), other(), original()]), [1, 1, 1]);
        assert_eq!(lengths(&[original(), other(), other(), line("b", "1"), original()]), [1, 3, 1]);
    }

    #[test]
    fn copies_of_different_generations_are_not_in_one_run() {
        let generations = [line("a", "1"), copy(line("a", "1"), 2), copy(line("a", "1"), 3)];
        assert_eq!(lengths(&generations), [1, 1, 1]);
    }

    #[test]
    fn what_cannot_be_read_is_in_every_run() {
        let unreadable = || line("a", "\"");
        assert!(unreadable().message_key().is_none());
        assert_eq!(lengths(&[line("a", "1"), unreadable(), unreadable(), line("a", "1")]), [4]);
    }
}
