//! A notifier that does what a test says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use allocation::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};
use async_trait::async_trait;

/// Takes every notice unless it has an error for it. Clones are one notifier.
#[derive(Clone, Default)]
pub(crate) struct ScriptedNotifier {
    errors: Arc<Mutex<VecDeque<NotifierError>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ScriptedNotifier {
    /// The answers to the next notices.
    pub(crate) fn fails(&self, errors: impl IntoIterator<Item = NotifierError>) {
        self.errors.lock().unwrap().extend(errors);
    }

    /// The event ids of all notices, those that failed included.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Notifier for ScriptedNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        self.asked.lock().unwrap().push(notification.event_id.to_string());
        self.errors.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        Ok(())
    }
}
