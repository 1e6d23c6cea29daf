//! Faults of the failed messages.

use async_trait::async_trait;

use crate::{
    domain::OperatorAction,
    ports::{
        error::StoreError,
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages, Operator},
    },
};

use super::{plan, points::CrashPoint};

pub(super) struct FaultyFailedMessages<F>(pub(super) F);

#[async_trait]
impl<F: FailedMessages> FailedMessages for FaultyFailedMessages<F> {
    async fn matching(&self, filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError> {
        self.0.matching(filter).await
    }

    async fn apply(
        &self,
        action: &OperatorAction,
        ids: &[i64],
        filter: &FailedMessageFilter,
        by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError> {
        let results = self.0.apply(action, ids, filter, by).await?;
        plan::pass(CrashPoint::OperatorAfterCommit);
        Ok(results)
    }
}
