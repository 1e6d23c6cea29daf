//! A notifier that only remembers what was said.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};

/// Takes every notice, and tells nobody.
#[derive(Clone, Default)]
pub struct RecordingNotifier {
    taken: Arc<Mutex<Vec<Notification>>>,
}

impl RecordingNotifier {
    /// Everything that was said, in order.
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
