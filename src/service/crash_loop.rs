//! Which messages may have crashed their worker, and how they are isolated until the cause is known.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::ports::{answered::Answered, error::StoreError, observer::Report, queue::QueueName, store::Store};

use super::{received::ReceivedMessage, reporting::Reporter, unit_of_work::QueryError};

/// The largest number of redelivered messages in one unit of work: a crash can be attributed to these at most.
const MAX_REDELIVERED_BATCH: usize = 32;
/// A message that was started so often without an end is handled alone, so that the next crash is attributed to it.
const ISOLATE_AFTER_STARTS: u32 = 2;
/// A message that was started so often without an end has crashed its worker twice while it was handled alone. With its
/// first delivery, which is not recorded, these are five crashes. One crash of an isolated message may be a coincidence:
/// processes that are killed from outside have some message in work, but hardly the same one twice.
const DEAD_AFTER_STARTS: u32 = 4;

/// Messages of a batch, by their indexes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Handled in one unit of work, beside those of other partitions.
    Shared(Range<usize>),
    /// Handled while no other command is handled in this process.
    Exclusive(usize),
    /// Not handled again, after so many starts without an end.
    GiveUp(usize, u32),
}

/// Divides a batch into units of work, in order. Without redelivered messages it is one unit of work. At most
/// [`MAX_REDELIVERED_BATCH`] redelivered messages share a unit of work, and one that was started twice without an end is
/// handled alone.
pub(super) async fn isolate(
    store: &dyn Store,
    queue: QueueName,
    batch: &mut [&mut ReceivedMessage],
    reporter: &Reporter,
) -> Result<Vec<Isolation>, QueryError> {
    let interrupted = look_up_starts(store, queue, batch).await?;
    if interrupted > 0 {
        reporter.report(&Report::InterruptedStarts(queue, interrupted));
    }
    let starts = batch.iter().map(|received| received.suspect_id().map(|_| received.starts.unwrap_or(0)));
    Ok(groups(starts))
}

/// Groups messages by their unfinished starts; `None` for a message that is not a suspect.
fn groups(starts: impl Iterator<Item = Option<u32>>) -> Vec<Isolation> {
    let mut groups = Vec::new();
    let (mut shared, mut suspects) = (0..0, 0);
    for (i, starts) in starts.enumerate() {
        let alone = match starts {
            Some(starts) if starts >= DEAD_AFTER_STARTS => Some(Isolation::GiveUp(i, starts)),
            Some(ISOLATE_AFTER_STARTS..) => Some(Isolation::Exclusive(i)),
            _ => None,
        };
        let is_full = starts.is_some() && suspects == MAX_REDELIVERED_BATCH;
        if alone.is_some() || is_full {
            close(&mut groups, shared);
            (shared, suspects) = (i..i, 0);
        }
        if let Some(group) = alone {
            groups.push(group);
            shared = i + 1..i + 1;
        } else {
            shared.end = i + 1;
            suspects += usize::from(starts.is_some());
        }
    }
    close(&mut groups, shared);
    groups
}

fn close(groups: &mut Vec<Isolation>, shared: Range<usize>) {
    if !shared.is_empty() {
        groups.push(Isolation::Shared(shared));
    }
}

/// Returns how many of the messages that were looked up have a start without an end.
async fn look_up_starts(
    store: &dyn Store,
    queue: QueueName,
    batch: &mut [&mut ReceivedMessage],
) -> Result<usize, QueryError> {
    let (mut unknown, mut ids) = (Vec::new(), Vec::new());
    for received in batch.iter_mut().filter(|received| received.starts.is_none()) {
        if let Some(id) = received.suspect_id() {
            ids.push(id);
            unknown.push(received);
        }
    }
    if unknown.is_empty() {
        return Ok(0);
    }
    let starts = match store.unfinished_starts(queue, &ids).await {
        // An id that cannot be stored has no starts. It is recorded as a failure when the message is handled.
        Err(StoreError::InvalidData(_)) => vec![0; ids.len()],
        starts => starts?,
    };
    let mut interrupted = 0;
    for (received, starts) in Answered::new(unknown, starts)? {
        received.starts = Some(starts);
        interrupted += usize::from(starts > 0);
    }
    Ok(interrupted)
}

/// Records the starts of redelivered messages before they are handled, each once in this process.
pub(super) async fn record_starts(
    store: &dyn Store,
    queue: QueueName,
    group: &mut [&mut ReceivedMessage],
) -> Result<(), StoreError> {
    let (mut suspects, mut ids) = (Vec::new(), Vec::new());
    for received in group.iter_mut().filter(|received| !received.start_recorded) {
        if let Some(id) = received.suspect_id() {
            ids.push(id);
            suspects.push(received);
        }
    }
    if !ids.is_empty() {
        match store.record_starts(queue, &ids).await {
            Err(StoreError::InvalidData(_)) => return Ok(()),
            recorded => recorded?,
        }
    }
    for suspect in suspects {
        suspect.start_recorded = true;
    }
    Ok(())
}

/// Recorded starts that did not end in a crash and must be reverted in the store.
#[derive(Default)]
pub(super) struct RevertedStarts {
    ids: Mutex<HashMap<QueueName, Vec<Arc<str>>>>,
}

impl RevertedStarts {
    /// Adds those of the messages whose start this process has recorded.
    pub(super) fn add(&self, queue: QueueName, batch: &[&ReceivedMessage]) {
        let recorded = batch.iter().filter(|received| received.start_recorded);
        let ids: Vec<_> = recorded.filter_map(|received| received.suspect_id()).collect();
        if !ids.is_empty() {
            self.lock().entry(queue).or_default().extend(ids);
        }
    }

    /// Writes them to the store. If this fails or is dropped, the rest is kept for the next time. Two concurrent calls may
    /// revert a start twice: too few recorded starts put no blame on a message.
    pub(super) async fn write(&self, store: &dyn Store) -> Result<(), StoreError> {
        while let Some((queue, ids)) = self.next() {
            store.revert_starts(queue, &ids).await?;
            let mut pending = self.lock();
            if let Some(of_queue) = pending.get_mut(&queue) {
                of_queue.retain(|id| !ids.contains(id));
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<(QueueName, Vec<Arc<str>>)> {
        let pending = self.lock();
        pending.iter().find(|(_, ids)| !ids.is_empty()).map(|(queue, ids)| (*queue, ids.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Vec<Arc<str>>>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups_of(starts: &[Option<u32>]) -> Vec<Isolation> {
        groups(starts.iter().copied())
    }

    #[test]
    fn messages_that_were_not_redelivered_share_a_unit_of_work() {
        assert_eq!(groups_of(&[]), []);
        assert_eq!(groups_of(&[None; 100]), [Isolation::Shared(0..100)]);
    }

    #[test]
    fn a_message_that_was_started_twice_is_handled_alone_and_in_order() {
        let table = [(0, false), (1, false), (2, true), (3, true)];
        for (starts, alone) in table {
            let expected = if alone {
                vec![Isolation::Shared(0..1), Isolation::Exclusive(1), Isolation::Shared(2..4)]
            } else {
                vec![Isolation::Shared(0..4)]
            };
            assert_eq!(groups_of(&[None, Some(starts), Some(1), None]), expected, "{starts} starts");
        }
    }

    #[test]
    fn a_message_with_four_unfinished_starts_is_given_up() {
        let expected = [
            Isolation::GiveUp(0, 4),
            Isolation::Exclusive(1),
            Isolation::GiveUp(2, 9),
            Isolation::Shared(3..4),
        ];
        assert_eq!(groups_of(&[Some(4), Some(3), Some(9), Some(0)]), expected);
    }

    #[test]
    fn at_most_thirty_two_redelivered_messages_share_a_unit_of_work() {
        let redelivered = [Some(0); 2 * MAX_REDELIVERED_BATCH + 1];
        let expected = [Isolation::Shared(0..32), Isolation::Shared(32..64), Isolation::Shared(64..65)];
        assert_eq!(groups_of(&redelivered), expected);
        let first_after = [&redelivered[..MAX_REDELIVERED_BATCH], &[None; 50]].concat();
        assert_eq!(groups_of(&first_after), [Isolation::Shared(0..82)]);
    }
}
