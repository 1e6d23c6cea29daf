//! How people are told: by mail, or by whatever takes its place.

use std::sync::Arc;

use async_trait::async_trait;

/// What is to be said to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The id of the event it tells of: the same at every repeat, so that a repeat is recognisable.
    pub event_id: Arc<str>,
    /// One line, without control characters.
    pub subject: String,
    /// The text, in lines.
    pub text: String,
}

/// Why a notice did not get through; the variant says what may follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifierError {
    /// Nobody can be told now. Nothing is wrong with this notice; whether it got through is unknown.
    #[error("the mail server is away: {0}")]
    Unavailable(String),
    /// This notice cannot get through now.
    #[error("the mail server put the mail off: {0}")]
    Deferred(String),
    /// This notice cannot get through as things are.
    #[error("the mail server refused the mail: {0}")]
    Rejected(String),
}

/// Tells people.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Says it, to whoever is to know; when this returns, somebody has taken responsibility for it.
    ///
    /// # Errors
    /// [`NotifierError`] says whether this notice is to blame.
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError>;

    /// Whether anybody could be told now.
    ///
    /// # Errors
    /// [`NotifierError::Unavailable`] if not.
    async fn probe(&self) -> Result<(), NotifierError>;
}
