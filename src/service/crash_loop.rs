//! Which messages may have killed their worker, and how they are handled so that the culprit is found.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::ports::{error::StoreError, queue::QueueName, store::Store};

use super::{availability::ServerUnavailable, received::ReceivedMessage};

/// Redelivered messages per unit of work: if it kills the worker, no more than these are suspects.
const MAX_REDELIVERED_BATCH: usize = 32;
/// A message that was started so often without an end is handled alone, so that its death would be its own.
const ISOLATE_AFTER_STARTS: u32 = 2;
/// A message that was started so often without an end has died alone twice. Once may be chance: whoever kills workers at
/// random finds some message alone, but hardly the same one again.
const DEAD_AFTER_STARTS: u32 = 4;

/// Messages of a batch, by their places in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// In one unit of work, beside those of other lanes.
    Shared(Range<usize>),
    /// While no other command is handled in this process.
    Exclusive(usize),
    /// Not handled any more: so many workers died while they handled it.
    GiveUp(usize, u32),
}

fn ids<'a>(batch: impl Iterator<Item = &'a ReceivedMessage>) -> Vec<Arc<str>> {
    batch.filter_map(ReceivedMessage::message_key).map(|key| key.message_id.clone()).collect()
}

/// What goes together into a unit of work: everything, as a rule. Redelivered messages may have killed their worker: not
/// many of them go together, their starts are counted, and one that was started twice without an end goes alone. The
/// groups are in the order of arrival.
pub(super) async fn groups(
    store: &dyn Store,
    queue: QueueName,
    batch: &[ReceivedMessage],
) -> Result<Vec<Isolation>, ServerUnavailable> {
    look_up_starts(store, queue, batch.iter().filter(|received| is_suspect(received))).await?;
    Ok(in_order(batch.iter().map(|received| is_suspect(received).then(|| received.unfinished_starts()))))
}

fn is_suspect(received: &ReceivedMessage) -> bool {
    received.redelivered && received.message_key().is_some()
}

/// The groups of messages of which each has so many unfinished starts; none if it was not redelivered.
fn in_order(starts: impl Iterator<Item = Option<u32>>) -> Vec<Isolation> {
    let mut groups = Vec::new();
    let (mut together, mut suspects) = (0..0, 0);
    for (i, starts) in starts.enumerate() {
        let group_alone = match starts {
            Some(starts) if starts >= DEAD_AFTER_STARTS => Some(Isolation::GiveUp(i, starts)),
            Some(ISOLATE_AFTER_STARTS..) => Some(Isolation::Exclusive(i)),
            _ => None,
        };
        let is_full = starts.is_some() && suspects == MAX_REDELIVERED_BATCH;
        if group_alone.is_some() || is_full {
            close(&mut groups, together);
            (together, suspects) = (i..i, 0);
        }
        if let Some(group) = group_alone {
            groups.push(group);
            together = i + 1..i + 1;
        } else {
            together.end = i + 1;
            suspects += usize::from(starts.is_some());
        }
    }
    close(&mut groups, together);
    groups
}

fn close(groups: &mut Vec<Isolation>, together: Range<usize>) {
    if !together.is_empty() {
        groups.push(Isolation::Shared(together));
    }
}

async fn look_up_starts(
    store: &dyn Store,
    queue: QueueName,
    suspects: impl Iterator<Item = &ReceivedMessage>,
) -> Result<(), ServerUnavailable> {
    let unknown: Vec<_> = suspects.filter(|received| received.starts_before.get().is_none()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let starts = store.unfinished_starts(queue, &ids(unknown.iter().copied())).await?;
    for (received, starts) in unknown.into_iter().zip(starts) {
        let _ = received.starts_before.set(starts);
    }
    Ok(())
}

/// Counts the starts of redelivered messages, each once in this process, before they are handled.
pub(super) async fn record_starts(
    store: &dyn Store,
    queue: QueueName,
    group: &[&ReceivedMessage],
) -> Result<(), ServerUnavailable> {
    let suspect = |received: &&&ReceivedMessage| received.redelivered && received.counted.get().is_none();
    let uncounted: Vec<_> = group.iter().filter(suspect).copied().collect();
    let ids = ids(uncounted.iter().copied());
    if !ids.is_empty() {
        store.record_starts(queue, &ids).await?;
    }
    for received in uncounted {
        let _ = received.counted.set(());
    }
    Ok(())
}

/// Starts that no crash ended, and that are still to be taken back in the store.
#[derive(Default)]
pub(super) struct RevertedStarts {
    ids: Mutex<HashMap<QueueName, Vec<Arc<str>>>>,
}

impl RevertedStarts {
    /// Adds the messages of which this process has counted a start.
    pub(super) fn add(&self, queue: QueueName, batch: &[ReceivedMessage]) {
        let counted =
            batch.iter().filter(|received| received.counted.get().is_some() && is_suspect(received));
        let ids = ids(counted);
        if !ids.is_empty() {
            self.lock().entry(queue).or_default().extend(ids);
        }
    }

    /// Writes them to the store. What is not written, because this fails or is dropped, stays for the next time. Two that
    /// write at the same time may take one start too many: fewer starts blame no message.
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

    fn groups(starts: &[Option<u32>]) -> Vec<Isolation> {
        in_order(starts.iter().copied())
    }

    #[test]
    fn messages_that_were_not_redelivered_go_together() {
        assert_eq!(groups(&[]), []);
        assert_eq!(groups(&[None; 100]), [Isolation::Shared(0..100)]);
    }

    #[test]
    fn a_message_that_was_started_twice_goes_alone_and_keeps_its_place() {
        let table = [(0, false), (1, false), (2, true), (3, true)];
        for (starts, alone) in table {
            let expected = if alone {
                vec![Isolation::Shared(0..1), Isolation::Exclusive(1), Isolation::Shared(2..4)]
            } else {
                vec![Isolation::Shared(0..4)]
            };
            assert_eq!(groups(&[None, Some(starts), Some(1), None]), expected, "{starts} starts");
        }
    }

    #[test]
    fn a_message_that_was_started_four_times_is_dead() {
        let expected = [
            Isolation::GiveUp(0, 4),
            Isolation::Exclusive(1),
            Isolation::GiveUp(2, 9),
            Isolation::Shared(3..4),
        ];
        assert_eq!(groups(&[Some(4), Some(3), Some(9), Some(0)]), expected);
    }

    #[test]
    fn no_more_than_thirty_two_redelivered_messages_go_together() {
        let redelivered = [Some(0); 2 * MAX_REDELIVERED_BATCH + 1];
        let expected = [Isolation::Shared(0..32), Isolation::Shared(32..64), Isolation::Shared(64..65)];
        assert_eq!(groups(&redelivered), expected);
        let first_after = [&redelivered[..MAX_REDELIVERED_BATCH], &[None; 50]].concat();
        assert_eq!(groups(&first_after), [Isolation::Shared(0..82)]);
    }
}
