//! What is done with each message of a unit of work: the inbox knows which were handled before, the failed messages which
//! copy is current.

use std::{
    collections::HashMap,
    ops::{Deref, Range},
    sync::Arc,
};

use crate::ports::{
    answered::{Answered, MissingAnswers},
    store::{InboxCheck, OrderCheck, OrderedMessage, RetryCheck},
};

use super::{
    decode_error::DecodeError,
    envelope::Envelope,
    failure::Failure,
    key_order::{self, Turn},
    outcome::{CommandOutcome, Step},
    received::ReceivedMessage,
    unit_of_work::{QueryError, UnitOfWork},
};

/// A message of a unit of work, checked.
pub(super) struct CheckedMessage<'a> {
    pub(super) received: &'a ReceivedMessage,
    pub(super) check: MessageCheck<'a>,
    /// The generation of the copy; 0 for a message from a sender, or one whose retry mark is not genuine.
    pub(super) generation: i64,
    /// Its place in the order of its key, if it is a new command.
    pub(super) order: OrderCheck,
}

/// The result of checking a message.
pub(super) enum MessageCheck<'a> {
    /// It was not handled before.
    New(&'a Envelope),
    /// It was not handled before, and must wait for an earlier command with its key.
    Behind(&'a Envelope),
    /// It was not handled before; its failed message is tried after an earlier one with its key.
    Recorded(&'a Envelope),
    /// It was handled before.
    Duplicate(&'a Envelope),
    /// It is a copy of the message at this index of the unit of work, and has the same outcome.
    CopyOf(usize),
    /// Its failed message has changed since this copy was published: it is neither handled nor recorded.
    Outdated,
    /// Its id belongs to another message.
    BodyMismatch,
    /// It cannot be decoded.
    Invalid(&'a DecodeError),
}

/// What is left to do with a checked message.
pub(super) enum Remaining<'a> {
    /// It must be handled.
    Handle(&'a Envelope),
    /// It has its result.
    Nothing(Step),
}

impl<'a> CheckedMessage<'a> {
    /// Ends the starts that were recorded for a redelivered message, and decides whether the message must be handled.
    pub(super) fn begin(&self, uow: &mut UnitOfWork) -> Remaining<'a> {
        self.clear_starts(uow);
        let step = match &self.check {
            MessageCheck::New(envelope) => return Remaining::Handle(envelope),
            MessageCheck::Behind(envelope) => {
                uow.forget(&envelope.key);
                key_order::must_wait()
            }
            MessageCheck::Recorded(envelope) => {
                uow.forget(&envelope.key);
                Step::Done(CommandOutcome::Duplicate)
            }
            MessageCheck::Duplicate(envelope) => {
                // A retry of a message that another copy has handled in the meantime is finished.
                if self.generation > 0 {
                    uow.mark_handled(&envelope.key);
                    envelope.content.ordering_key().into_iter().for_each(|key| uow.release(key));
                }
                Step::Done(CommandOutcome::Duplicate)
            }
            MessageCheck::Outdated => Step::Done(CommandOutcome::Duplicate),
            MessageCheck::CopyOf(original) => Step::CopyOf(*original),
            MessageCheck::BodyMismatch => Step::failed(Failure::BodyMismatch),
            MessageCheck::Invalid(error) => Step::failed((*error).clone()),
        };
        Remaining::Nothing(step)
    }

    pub(super) fn clear_starts(&self, uow: &mut UnitOfWork) {
        if let Some(key) = self.received.message_key().filter(|_| self.received.redelivered) {
            uow.clear_starts(key);
        }
    }
}

/// Checks the messages of a unit of work. Afterwards the inbox contains the new ones, as part of the transaction.
pub(super) async fn check<'a>(
    uow: &mut UnitOfWork,
    batch: &[&'a ReceivedMessage],
) -> Result<Vec<CheckedMessage<'a>>, QueryError> {
    let candidates = candidates(batch);
    let originals = || candidates.iter().filter(|candidate| candidate.copy_of.is_none());
    let keys = originals().filter_map(|original| original.received.message_key().cloned()).collect();
    let marks = originals().filter_map(|original| original.received.message.retry).collect();
    let inbox: HashMap<Arc<str>, InboxCheck> =
        uow.check_inbox(keys).await?.into_iter().map(|(key, check)| (key.message_id, check)).collect();
    let retries: HashMap<_, _> = uow.check_retries(marks).await?.into_iter().collect();
    let mut checked = Vec::with_capacity(batch.len());
    for Candidate { received, copy_of } in candidates {
        let mark = received.message.retry;
        let retry = mark.and_then(|mark| retries.get(&mark).copied());
        let in_inbox = received.message_key().and_then(|key| inbox.get(&key.message_id).copied());
        let check = match copy_of {
            Some(original) => MessageCheck::CopyOf(original),
            None => combine(received, retry, in_inbox)?,
        };
        if let (MessageCheck::Outdated, Some(InboxCheck::New), Some(key)) =
            (&check, in_inbox, received.message_key())
        {
            uow.forget(key);
        }
        let is_current = retry == Some(RetryCheck::Current);
        let generation = mark.filter(|_| is_current).map_or(0, |mark| mark.generation);
        checked.push(CheckedMessage { received, check, generation, order: OrderCheck::default() });
    }
    check_order(uow, &mut checked).await?;
    Ok(checked)
}

/// Finds the new commands whose turn it is not.
async fn check_order(uow: &mut UnitOfWork, checked: &mut [CheckedMessage<'_>]) -> Result<(), QueryError> {
    let mut commands = Vec::with_capacity(checked.len());
    let mut indexes = Vec::with_capacity(checked.len());
    for (index, checked) in checked.iter().enumerate() {
        if let MessageCheck::New(envelope) = checked.check
            && let Some(key) = envelope.content.ordering_key()
        {
            commands.push(OrderedMessage { message: envelope.key.clone(), key });
            indexes.push(index);
        }
    }
    for (index, order) in Answered::new(indexes, uow.check_order(&commands).await?)? {
        let checked = &mut checked[index];
        checked.order = order;
        let redelivered = checked.received.redelivered;
        if let MessageCheck::New(envelope) = checked.check {
            checked.check = match key_order::turn(&order, envelope, checked.generation > 0, redelivered) {
                Turn::Now => MessageCheck::New(envelope),
                Turn::AfterAnother => MessageCheck::Behind(envelope),
                Turn::Recorded => MessageCheck::Recorded(envelope),
            };
        }
    }
    Ok(())
}

/// Checks the only message of a unit of work.
pub(super) async fn check_one<'a>(
    uow: &mut UnitOfWork,
    received: &'a ReceivedMessage,
) -> Result<CheckedMessage<'a>, QueryError> {
    Ok(check(uow, &[received]).await?.pop().ok_or(MissingAnswers::NONE)?)
}

/// Marks a new message as handled, or removes it from the inbox if handling it failed.
pub(super) fn end(uow: &mut UnitOfWork, envelope: &Envelope, step: &Step) {
    match step {
        Step::Handled(_) | Step::Done(_) => uow.mark_handled(&envelope.key),
        Step::Failed(..) | Step::CopyOf(_) => uow.forget(&envelope.key),
    }
}

/// Every message that can be decoded was looked up in the inbox.
fn combine(
    received: &ReceivedMessage,
    retry: Option<RetryCheck>,
    inbox: Option<InboxCheck>,
) -> Result<MessageCheck<'_>, MissingAnswers> {
    Ok(match (retry, &received.decoded, inbox) {
        (Some(RetryCheck::Outdated), ..) => MessageCheck::Outdated,
        (_, Err(error), _) => MessageCheck::Invalid(error),
        (_, Ok(envelope), Some(InboxCheck::New)) => MessageCheck::New(envelope),
        (_, Ok(envelope), Some(InboxCheck::Duplicate)) => MessageCheck::Duplicate(envelope),
        (_, Ok(_), Some(InboxCheck::BodyMismatch)) => MessageCheck::BodyMismatch,
        (_, Ok(_), None) => return Err(MissingAnswers::NONE),
    })
}

struct Candidate<'a> {
    received: &'a ReceivedMessage,
    /// The index of the first message with the same id, if that is another one.
    copy_of: Option<usize>,
}

fn candidates<'a>(batch: &[&'a ReceivedMessage]) -> Vec<Candidate<'a>> {
    let mut first = HashMap::new();
    let candidates = batch.iter().enumerate().map(|(i, received)| {
        let id = received.message_key().map(|key| &key.message_id);
        let original = id.map(|id| *first.entry(id).or_insert(i));
        Candidate { received, copy_of: original.filter(|original| *original != i) }
    });
    candidates.collect()
}

/// Divides messages into runs that may each be one unit of work: in a run all messages with one id are copies of the first.
/// A message with the id of an earlier one that it differs from begins the next run, so that the order is kept.
pub(super) fn runs<T: Deref<Target = ReceivedMessage>>(batch: &[T]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut begin = 0;
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for (i, received) in batch.iter().enumerate() {
        let Some(key) = received.message_key() else { continue };
        let earlier = ids.get(&*key.message_id).copied();
        if earlier.is_some_and(|earlier| !received.is_copy_of(&batch[earlier])) {
            runs.push(begin..i);
            begin = i;
            ids.clear();
        }
        ids.entry(&key.message_id).or_insert(i);
    }
    runs.push(begin..batch.len());
    runs
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        ports::queue::{Message, QueueName, RetryMark},
        service::{decode::Limits, received::ReceivedMessage},
    };

    fn line(id: &str, order: &str) -> ReceivedMessage {
        let message = Message {
            kind: "deallocate".into(),
            message_id: Some(id.into()),
            body: format!(r#"{{"orderid": "{order}", "sku": "LAMP"}}"#).into_bytes().into(),
            ..Message::default()
        };
        ReceivedMessage::read(
            QueueName::Orders,
            message,
            false,
            Limits { body_bytes: 1000, header_bytes: 1000 },
        )
    }

    fn copy(mut line: ReceivedMessage, generation: i64) -> ReceivedMessage {
        line.message.retry = Some(RetryMark { failed_message_id: 1, generation, secret: Uuid::nil() });
        line
    }

    fn lengths(batch: &[ReceivedMessage]) -> Vec<usize> {
        let batch: Vec<_> = batch.iter().collect();
        runs(&batch).into_iter().map(|run| run.len()).collect()
    }

    #[test]
    fn different_messages_and_copies_are_one_run() {
        assert_eq!(lengths(&[line("a", "1"), line("b", "1"), line("a", "1"), line("c", "1")]), [4]);
        assert_eq!(lengths(&[copy(line("a", "1"), 2), copy(line("a", "1"), 2)]), [2]);
    }

    #[test]
    fn another_message_with_a_known_id_begins_a_run() {
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
    fn an_undecodable_message_begins_no_run() {
        let unreadable = || line("a", "\"");
        assert!(unreadable().message_key().is_none());
        assert_eq!(lengths(&[line("a", "1"), unreadable(), unreadable(), line("a", "1")]), [4]);
    }
}
