//! A notifier that records notifications.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};

/// Accepts every notification and sends none.
#[derive(Clone, Default)]
pub struct RecordingNotifier {
    taken: Arc<Mutex<Vec<Notification>>>,
}

impl RecordingNotifier {
    /// The notifications, in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Notification> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Notifier for RecordingNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(notification.clone());
        Ok(())
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        Ok(())
    }
}
