//! The mails of a dry run, which are not sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};

/// Accepts every notification and keeps its subject.
#[derive(Debug, Default)]
pub(super) struct UnsentMail {
    subjects: Mutex<HashMap<Arc<str>, String>>,
}

impl UnsentMail {
    /// The subject of the mail about an event.
    pub(super) fn subject(&self, event_id: &str) -> Option<String> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner).get(event_id).cloned()
    }
}

#[async_trait]
impl Notifier for UnsentMail {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        subjects.insert(notification.event_id.clone(), notification.subject.clone());
        Ok(())
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        Ok(())
    }
}
