//! Which messages may have killed their worker, and how they are handled so that the culprit is found.

use std::sync::Arc;

use crate::ports::{queue::QueueName, store::Store};

use super::{
    incoming::{Batch, Incoming},
    outage::Away,
};

/// Redelivered messages per unit of work: if it kills the worker, no more than these are suspects.
const SUSPECTS: usize = 32;
/// A message that was started so often without an end is handled alone, so that its death would be its own.
const SUSPICIOUS_STARTS: u32 = 2;
/// A message that was started so often without an end has died alone twice. Once may be chance: whoever kills workers at
/// random finds some message alone, but hardly the same one again.
const DEADLY_STARTS: u32 = 4;

/// Messages of a batch, by their places in it.
pub(super) enum Group {
    /// In one unit of work, beside those of other lanes.
    Together(Vec<usize>),
    /// While nothing else is handled in this process.
    Alone(usize),
    /// Not handled any more: it has killed so many workers.
    Dead(usize, u32),
}

fn ids(batch: &Batch<'_>) -> Vec<Arc<str>> {
    batch.iter().filter_map(|incoming| incoming.receipt()).map(|receipt| receipt.message_id.clone()).collect()
}

/// What goes together into a unit of work: everything, as a rule. Redelivered messages may have killed their
/// worker: they go in small groups whose start is counted, and one that was started twice without an end goes alone.
pub(super) async fn groups(
    store: &dyn Store,
    queue: QueueName,
    batch: &[Incoming],
) -> Result<Vec<Group>, Away> {
    let (suspects, innocent): (Vec<_>, Vec<_>) =
        (0..batch.len()).partition(|&i| batch[i].redelivered && batch[i].receipt().is_some());
    look_up_starts(store, queue, suspects.iter().map(|&i| &batch[i])).await?;
    let mut groups = Vec::new();
    let (in_company, alone): (Vec<_>, Vec<_>) =
        suspects.into_iter().partition(|&i| batch[i].starts() < SUSPICIOUS_STARTS);
    groups.extend(in_company.chunks(SUSPECTS).map(|chunk| Group::Together(chunk.to_vec())));
    groups.extend(alone.into_iter().map(|i| match batch[i].starts() {
        starts if starts >= DEADLY_STARTS => Group::Dead(i, starts),
        _ => Group::Alone(i),
    }));
    if !innocent.is_empty() {
        groups.push(Group::Together(innocent));
    }
    Ok(groups)
}

async fn look_up_starts(
    store: &dyn Store,
    queue: QueueName,
    suspects: impl Iterator<Item = &Incoming>,
) -> Result<(), Away> {
    let unknown: Vec<_> = suspects.filter(|incoming| incoming.starts_before.get().is_none()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let starts = store.starts(queue, &ids(&unknown)).await?;
    for (incoming, starts) in unknown.into_iter().zip(starts) {
        let _ = incoming.starts_before.set(starts);
    }
    Ok(())
}

/// Counts the starts of redelivered messages, each once in this process, before they are handled.
pub(super) async fn count_starts(store: &dyn Store, queue: QueueName, group: &Batch<'_>) -> Result<(), Away> {
    let suspect = |incoming: &&&Incoming| incoming.redelivered && incoming.counted.get().is_none();
    let uncounted: Vec<_> = group.iter().filter(suspect).copied().collect();
    let ids = ids(&uncounted);
    if !ids.is_empty() {
        store.count_starts(queue, &ids).await?;
    }
    for incoming in uncounted {
        let _ = incoming.counted.set(());
    }
    Ok(())
}
