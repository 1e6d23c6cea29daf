//! How people are told: by mail, or by whatever takes its place.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::NotifierError;

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
