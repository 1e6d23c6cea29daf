//! The limit of the space that failed messages take.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::app::App;

impl App {
    /// The bytes that failed messages may take.
    #[must_use]
    pub fn failed_message_limit(&self) -> u64 {
        self.settings.limits.failed_messages.as_u64()
    }

    /// Stops the consumers of this process while the limit is exceeded.
    pub(super) fn monitor_storage(&self, stop: &CancellationToken, background: &mut JoinSet<()>) {
        let (storage, views, limit, stop) =
            (self.storage.clone(), self.views(), self.failed_message_limit(), stop.clone());
        background.spawn(async move {
            storage.monitor(|| views.failed_message_bytes(limit), limit, &stop).await;
        });
    }
}
