//! Notifications of people, by mail or another channel.

use std::sync::Arc;

use async_trait::async_trait;

use super::error::NotifierError;

/// A notification about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The id of its event. A duplicate has the same id.
    pub event_id: Arc<str>,
    /// A line without control characters.
    pub subject: String,
    /// The text.
    pub text: String,
}

/// Sends notifications.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Sends a notification; on success its receiver is responsible for the delivery.
    ///
    /// # Errors
    /// The variant of [`NotifierError`] states whether the notification or the server is the cause.
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError>;

    /// Whether notifications can be sent.
    ///
    /// # Errors
    /// [`NotifierError::Unavailable`] if not.
    async fn probe(&self) -> Result<(), NotifierError>;
}
