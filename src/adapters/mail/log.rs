//! Notifications as log lines, where no mail server is configured.

use async_trait::async_trait;
use tracing::info;

use crate::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};

/// Logs the subject of each notification, which is then done.
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        info!(event_id = &*notification.event_id, subject = notification.subject, "notification");
        Ok(())
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        Ok(())
    }
}
