//! What a dry run shows of a message.

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    domain::Status,
    service::effects::{BatchChange, EventToPublish, LineChange},
};

/// What a retry would lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The message would be handled.
    Succeed,
    /// It was handled before, and nothing would change.
    Repeat,
    /// It would fail.
    Fail,
    /// It would wait for an earlier message with its line or batch.
    Wait,
    /// A retry would skip it.
    Skip,
    /// It could not be tried in the time of a dry run: another session holds a lock, or it takes long.
    Busy,
}

/// A mail that would be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MailToSend {
    /// The recipients.
    pub to: String,
    /// The subject.
    pub subject: String,
}

/// The message as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSummary {
    /// Its type.
    pub kind: String,
    /// Its order or batch, or else its message id.
    pub subject: Option<String>,
    /// Its status.
    pub status: Status,
    /// Its last error.
    pub error: String,
}

/// The result of a dry run for one message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrialReport {
    /// The failed message.
    pub id: i64,
    /// When the dry run began.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// What a retry would lead to.
    pub would: Verdict,
    /// If it would fail or wait: the status after that, or the reason for which it would be dead.
    pub next: Option<&'static str>,
    /// Why it would not succeed.
    pub error: Option<String>,
    /// How long its handler took.
    pub took_ms: u64,
    /// The lines that it would move.
    pub lines: Vec<LineChange>,
    /// The batches that it would change.
    pub batches: Vec<BatchChange>,
    /// The events that it would publish.
    pub events: Vec<EventToPublish>,
    /// The mail that it would send.
    pub mail: Option<MailToSend>,
    /// What the operator should know before a retry.
    pub caveats: Vec<String>,
    /// The message as it is now.
    #[serde(skip)]
    pub message: MessageSummary,
}
