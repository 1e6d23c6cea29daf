//! A notifier with scripted errors.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use allocation::ports::{
    error::NotifierError,
    notifier::{Notification, Notifier},
};
use async_trait::async_trait;

/// Accepts every notification, unless an error is scripted. Clones share one notifier.
#[derive(Clone, Default)]
pub(crate) struct ScriptedNotifier {
    errors: Arc<Mutex<VecDeque<NotifierError>>>,
    notified: Arc<Mutex<Vec<String>>>,
}

impl ScriptedNotifier {
    /// The errors of the next notifications.
    pub(crate) fn fail_next(&self, errors: impl IntoIterator<Item = NotifierError>) {
        self.errors.lock().unwrap().extend(errors);
    }

    /// The event ids of all notifications, including failed ones.
    pub(crate) fn notified(&self) -> Vec<String> {
        self.notified.lock().unwrap().clone()
    }
}

#[async_trait]
impl Notifier for ScriptedNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        self.notified.lock().unwrap().push(notification.event_id.to_string());
        self.errors.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        Ok(())
    }
}
