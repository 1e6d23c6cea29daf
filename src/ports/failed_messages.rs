//! The failed messages: commands that failed, with every attempt and operator action.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{OperatorAction, SkipReason, StatusKind};

use super::error::StoreError;

/// A message whose next attempt is due.
#[derive(Clone, Debug, PartialEq)]
pub struct DueRetry {
    /// The failed message.
    pub id: i64,
    /// The generation of the copy that is to be published.
    pub generation: i64,
    /// The name of its queue, without the namespace.
    pub queue: String,
    /// Its id, if it has one.
    pub message_id: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its body.
    pub body: Vec<u8>,
    /// Its properties as received.
    pub original: Vec<u8>,
    /// Whether an operator replaced the content.
    pub edited: bool,
    /// The secret that makes the retry marks of its copies genuine.
    pub secret: Uuid,
}

/// The error of a message whose retry the broker rejects permanently.
#[must_use]
pub fn rejected_retry_error(reason: &str) -> String {
    format!("the broker rejected the retry: {reason}")
}

/// The beginning of a period that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The duration of the period, by the clock of the store.
    Within(Duration),
    /// Its first moment.
    Time(OffsetDateTime),
}

impl Since {
    /// The duration in seconds, or else the first moment.
    #[must_use]
    pub fn parts(self) -> (Option<f64>, Option<OffsetDateTime>) {
        match self {
            Self::Within(duration) => (Some(duration.as_secs_f64()), None),
            Self::Time(time) => (None, Some(time)),
        }
    }
}

/// Selects failed messages. An empty field matches every message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedMessageFilter {
    /// One of these.
    pub ids: Option<Vec<i64>>,
    /// In this status.
    pub status: Option<StatusKind>,
    /// Of this queue, named without the namespace.
    pub queue: Option<String>,
    /// Of this type.
    pub kind: Option<String>,
    /// Dead or discarded with this reason.
    pub reason: Option<String>,
    /// With this text in the error or the message id; case is ignored.
    pub grep: Option<String>,
    /// Last failed since then.
    pub since: Option<Since>,
    /// Of this group.
    pub group: Option<String>,
}

/// An operator, and the reason for an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The user and the host.
    pub who: String,
    /// The reason, in the operator's words.
    pub why: Option<String>,
}

/// The result of an action on one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionResult {
    /// The action was applied.
    Applied,
    /// The action does not apply, for this reason.
    Skipped(SkipReason),
}

/// The failed messages, for operators.
#[async_trait]
pub trait FailedMessages: Send + Sync {
    /// The ids of the matching messages; the one that failed first is first.
    async fn matching(&self, filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError>;

    /// Applies an action to messages and records who requested it and why, all in one transaction. The results are in
    /// any order, one for each id. A message that changed and does not match the filter any more is skipped; the
    /// filter's `ids` and `since` are not checked again.
    async fn apply(
        &self,
        action: &OperatorAction,
        ids: &[i64],
        filter: &FailedMessageFilter,
        by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError>;
}
