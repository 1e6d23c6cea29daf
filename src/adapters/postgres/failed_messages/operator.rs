//! Operator actions: find, decide, write, in one transaction.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::{
    domain::{OperatorAction, SkipReason},
    pg::{PgConfig, Pool, PooledSession},
    ports::{
        error::StoreError,
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages, Operator},
    },
};

use super::{find, order, transition};

/// The failed messages of a database.
pub struct PgFailedMessages {
    pool: Pool,
    timeout: Duration,
}

impl PgFailedMessages {
    /// The failed messages in the database of a pool.
    #[must_use]
    pub fn new(pool: impl Into<Pool>, config: &PgConfig) -> Self {
        Self { pool: pool.into(), timeout: config.timeout }
    }
}

#[async_trait]
impl FailedMessages for PgFailedMessages {
    async fn matching(&self, filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError> {
        let mut session = PooledSession::open(&self.pool, self.timeout).await?;
        let ids = session.run(async |connection| find::matching(connection, filter).await).await?;
        session.finish().await?;
        Ok(ids)
    }

    async fn apply(
        &self,
        action: &OperatorAction,
        ids: &[i64],
        filter: &FailedMessageFilter,
        by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        let results =
            session.run(async |connection| apply(connection, action, ids, filter, by).await).await?;
        session.commit().await?;
        Ok(results)
    }
}

async fn apply(
    connection: &mut PgConnection,
    action: &OperatorAction,
    ids: &[i64],
    filter: &FailedMessageFilter,
    by: &Operator,
) -> Result<Vec<(i64, ActionResult)>, sqlx::Error> {
    let mut results = Vec::with_capacity(ids.len());
    let (mut transitions, mut applied) = (Vec::new(), Vec::new());
    let found = find::find_for_update(connection, ids, filter).await?;
    let known: HashSet<_> = found.iter().map(|message| message.id).collect();
    let missing = ids.iter().filter(|id| !known.contains(id));
    results.extend(missing.map(|id| (*id, ActionResult::Skipped(reason_of_absence(filter)))));
    for mut message in found {
        let result = match message.apply(action) {
            Ok(transition) => {
                transitions.push(transition);
                applied.push(message.id);
                ActionResult::Applied
            }
            Err(reason) => {
                transitions.extend(message.resolve_skipped(action));
                ActionResult::Skipped(reason)
            }
        };
        results.push((message.id, result));
    }
    transition::record_action(connection, &applied, action, by).await?;
    if let Some(content) = action.new_content() {
        transition::replace_content(connection, &applied, content).await?;
    }
    transition::write(connection, &transitions).await?;
    let ended = transitions.iter().filter(|to| !to.status.is_open()).map(|to| to.id).collect::<Vec<_>>();
    let keys = transition::keys(connection, &ended).await?;
    if order::release(connection, &keys).await? {
        transition::notify(connection).await?;
    }
    Ok(results)
}

/// A message that exists is absent only if the filter has more than ids and an age.
fn reason_of_absence(filter: &FailedMessageFilter) -> SkipReason {
    let checked = FailedMessageFilter { ids: None, since: None, ..filter.clone() };
    if checked == FailedMessageFilter::default() { SkipReason::NotFound } else { SkipReason::NoLongerMatches }
}
