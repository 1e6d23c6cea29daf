//! What operators do with commands that failed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ports::{
    error::{StoreError, error_text},
    failed_messages::{ActionResult, Edit, FailedMessageFilter, FailedMessages, Operator, OperatorAction},
};

use super::{
    backoff::Backoff,
    decode::{self, DecodeError},
};

/// Messages in one transaction when nobody asks for a rate.
const AT_ONCE: usize = 500;
/// With a rate: how many portions a second is made of.
const PORTIONS: u32 = 10;

/// How far an action on many messages came.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BulkReport {
    /// How many were meant.
    pub matched: usize,
    /// With how many it was done.
    pub done: usize,
    /// How many needed nothing, or could not.
    pub skipped: usize,
    /// How many it was not tried with.
    pub failed: usize,
    /// Why it stopped early, unless it was told to.
    #[serde(skip)]
    pub stopped_by: Option<String>,
}

/// Why a correction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The new body is no command of that type.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Acts on all that are meant, a portion at a time, each in its own transaction. `stop` ends it between two portions;
/// doing it again does the rest. `tell` is told of every portion.
///
/// # Errors
/// The store is away before anything was done. Later the tally says how far it came.
pub async fn act_on_all(
    ledger: &dyn FailedMessages,
    action: OperatorAction,
    filter: &FailedMessageFilter,
    by: &Operator,
    per_second: Option<u32>,
    stop: &CancellationToken,
    mut tell: impl FnMut(&BulkReport, &[(i64, ActionResult)]),
) -> Result<BulkReport, StoreError> {
    let ids = ledger.matching(filter).await?;
    let mut report = BulkReport { matched: ids.len(), ..BulkReport::default() };
    let portion = per_second.map_or(AT_ONCE, |rate| rate.div_ceil(PORTIONS) as usize);
    let mut clock = per_second.map(|rate| tokio::time::interval(interval(rate)));
    for ids in ids.chunks(portion.max(1)) {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        if stop.is_cancelled() {
            break;
        }
        let results = match with_conflict_retry(async || ledger.apply(action, ids, filter, by).await).await {
            Ok(results) => results,
            Err(error) => {
                report.stopped_by = Some(error_text(&error));
                break;
            }
        };
        report.done += results.iter().filter(|(_, results)| *results == ActionResult::Applied).count();
        report.skipped += results.iter().filter(|(_, results)| *results != ActionResult::Applied).count();
        tell(&report, &results);
    }
    report.failed = report.matched - report.done - report.skipped;
    Ok(report)
}

/// Tries again at once, a few times, when another transaction was in the way: workers and operators may need the same rows.
async fn with_conflict_retry<T>(action: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut delays = Backoff::after_conflict();
    loop {
        match (action().await, delays.next()) {
            (Err(StoreError::Conflict(_)), Some(delay)) => tokio::time::sleep(delay).await,
            (outcome, _) => return outcome,
        }
    }
}

/// The time between two portions, so that together they make the rate.
fn interval(per_second: u32) -> Duration {
    Duration::from_secs_f64(f64::from(per_second.div_ceil(PORTIONS)) / f64::from(per_second.max(1)))
}

/// Replaces the body of a dead message by a valid one, and tries again. `shown_generation` is the one that the operator has
/// seen: a message that changed since is left alone.
///
/// # Errors
/// The body is no valid command of that type, or the store is away.
pub async fn edit(
    ledger: &dyn FailedMessages,
    id: i64,
    shown_generation: i64,
    kind: &str,
    message_id: &str,
    body: &[u8],
    by: &Operator,
) -> Result<ActionResult, EditError> {
    decode::checked_id(message_id)?;
    decode::content(kind, body)?;
    let edit = Edit {
        shown_generation,
        kind: kind.to_owned(),
        message_id: message_id.to_owned(),
        body: body.to_owned(),
        body_hash: decode::body_hash(body),
    };
    Ok(with_conflict_retry(async || ledger.edit(id, &edit, by).await).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_make_the_rate() {
        assert_eq!(interval(500), Duration::from_millis(100));
        assert_eq!(interval(1), Duration::from_secs(1));
        assert_eq!(interval(3), Duration::from_secs_f64(1.0 / 3.0));
    }
}
