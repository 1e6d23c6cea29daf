//! Operator actions on failed messages.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Edit, OperatorAction, OrderingKey},
    ports::{
        error::{StoreError, error_text},
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages, Operator},
        routing,
    },
};

use super::{
    backoff::Backoff,
    body::read_body,
    decode::{self, Limits},
    decode_error::DecodeError,
    json_text::same_value,
};

/// Messages of one transaction if there is no rate.
const BATCH_SIZE: usize = 500;
/// Transactions per second if there is a rate.
const BATCHES_PER_SECOND: u32 = 10;

/// The progress of an action on many messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BulkReport {
    /// Messages that matched the filter when the action began.
    pub matched: usize,
    /// Messages that the action was applied to.
    pub done: usize,
    /// Messages that the action does not apply to.
    pub skipped: usize,
    /// Messages that were not processed.
    pub failed: usize,
    /// The error that stopped the action, if one did.
    #[serde(skip)]
    pub stopped_by: Option<String>,
}

/// An edit that an operator requests.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// The failed message.
    pub id: i64,
    /// Its queue, named without the namespace.
    pub queue: String,
    /// The generation that the operator saw.
    pub shown_generation: i64,
    /// The content that the operator saw.
    pub shown: Content,
    /// The content that is to replace it.
    pub edited: Content,
    /// Whether the message is retried although a later command with its key was handled.
    pub even_overtaken: bool,
}

/// What an operator can edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The type.
    pub kind: String,
    /// The message id; empty if the message has none.
    pub message_id: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why an edit was rejected; the message is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The new content is the same as the old one.
    #[error("nothing changed")]
    Unchanged,
    /// The new content is not a valid command.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// The consumer of the message's queue does not handle the new type.
    #[error("the queue {queue} does not take this type")]
    WrongQueue {
        /// The message's queue.
        queue: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Applies an action to all matching messages, in batches with a transaction each, at most `per_second` messages a second.
/// `stop` ends it between two batches; the same call again processes the remaining messages. `on_progress` receives the
/// report and the results of each batch.
///
/// # Errors
/// The store failed before the first batch. A later failure is in the report.
pub async fn apply_to_matching(
    failed_messages: &dyn FailedMessages,
    action: &OperatorAction,
    filter: &FailedMessageFilter,
    by: &Operator,
    per_second: Option<u32>,
    stop: &CancellationToken,
    mut on_progress: impl FnMut(&BulkReport, &[(i64, ActionResult)]),
) -> Result<BulkReport, StoreError> {
    let ids = failed_messages.matching(filter).await?;
    let mut report = BulkReport { matched: ids.len(), ..BulkReport::default() };
    let batch_size = per_second.map_or(BATCH_SIZE, |rate| rate.div_ceil(BATCHES_PER_SECOND) as usize);
    let mut clock = per_second.map(|rate| tokio::time::interval(interval(rate)));
    for ids in ids.chunks(batch_size.max(1)) {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        if stop.is_cancelled() {
            break;
        }
        let applied = with_conflict_retry(async || failed_messages.apply(action, ids, filter, by).await);
        let results = match applied.await {
            Ok(results) => results,
            Err(error) => {
                report.stopped_by = Some(error_text(&error));
                break;
            }
        };
        let done = results.iter().filter(|(_, result)| *result == ActionResult::Applied).count();
        report.done += done;
        report.skipped += results.len() - done;
        on_progress(&report, &results);
    }
    report.failed = report.matched - report.done - report.skipped;
    Ok(report)
}

/// Tries again after a conflict, a few times: workers and operators may need the same rows.
async fn with_conflict_retry<T>(action: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut delays = Backoff::after_conflict();
    loop {
        match (action().await, delays.next()) {
            (Err(StoreError::AlreadyExists(_)), Some(delay)) => tokio::time::sleep(delay).await,
            (Err(error), Some(delay)) if error.is_conflict() => tokio::time::sleep(delay).await,
            (outcome, _) => return outcome,
        }
    }
}

/// The time between two batches that gives the rate.
fn interval(per_second: u32) -> Duration {
    let batch_size = per_second.div_ceil(BATCHES_PER_SECOND);
    Duration::from_secs_f64(f64::from(batch_size) / f64::from(per_second.max(1)))
}

/// The body after an edit: the stored bytes if it is the same, so that an editor's layout of JSON is no change.
#[must_use]
pub fn edited_body(stored: &[u8], edited: Vec<u8>) -> Vec<u8> {
    let added_line_end = edited.strip_suffix(b"\n") == Some(stored);
    if added_line_end || same_value(stored, &edited) { stored.to_vec() } else { edited }
}

/// Replaces the content of a dead message by a valid command and retries it.
///
/// # Errors
/// Nothing changed, the content is not a command that the message's queue takes, or the store failed.
pub async fn edit(
    failed_messages: &dyn FailedMessages,
    limits: Limits,
    request: EditRequest,
    by: &Operator,
) -> Result<ActionResult, EditError> {
    let EditRequest { id, queue, shown_generation, shown, edited, even_overtaken } = request;
    let edited = Content { body: edited_body(&shown.body, edited.body), ..edited };
    if edited == shown {
        return Err(EditError::Unchanged);
    }
    let Content { kind, message_id, body } = edited;
    let ordering_key = check(&queue, &kind, &message_id, &body, limits)?;
    let body_hash = decode::body_hash(&body);
    let edit = OperatorAction::Edit(Edit {
        shown_generation,
        kind,
        message_id,
        body,
        body_hash,
        ordering_key,
        even_overtaken,
    });
    let filter = FailedMessageFilter::default();
    let apply = with_conflict_retry(async || failed_messages.apply(&edit, &[id], &filter, by).await);
    let result = apply.await?.pop().map(|(_, result)| result);
    Ok(result.ok_or_else(|| StoreError::Failed("no result for this message".into()))?)
}

/// What the consumer of the queue would reject immediately is rejected here. Returns the key of the command.
fn check(
    queue: &str,
    kind: &str,
    message_id: &str,
    body: &[u8],
    limits: Limits,
) -> Result<Option<OrderingKey>, EditError> {
    limits.check_body(body)?;
    decode::checked_id(message_id)?;
    let content = read_body(kind, body)?;
    if routing::queue_of(kind).is_some_and(|of_kind| of_kind.as_str() == queue) {
        Ok(content.ordering_key())
    } else {
        Err(EditError::WrongQueue { queue: queue.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_make_the_rate() {
        assert_eq!(interval(500), Duration::from_millis(100));
        assert_eq!(interval(1), Duration::from_secs(1));
        assert_eq!(interval(3), Duration::from_secs_f64(1.0 / 3.0));
    }
}
