//! Notices the end of outages. A part that could not use a server reports when it can use it again; but it may have no reason to
//! try, because another process has its messages or leads.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::ports::admin::Topology;

use super::{activity::Activity, availability::AvailabilityLog, batch_handler::BatchHandler};

/// How often this looks for outages that are no longer reported.
const INTERVAL: Duration = Duration::from_secs(5);
/// A part that still tries to use a server reports it within a shorter time. It knows better than a probe whether it can.
const SILENCE: Duration = Duration::from_mins(1);

/// Probes servers that were reported as unavailable, and are not any more.
pub struct OutageEnd {
    /// The availability of the database.
    pub database: Arc<AvailabilityLog>,
    /// The availability of the broker.
    pub broker: Arc<AvailabilityLog>,
    /// The availability of the mail server.
    pub mail: Arc<AvailabilityLog>,
    /// Probes the database.
    pub commands: Arc<dyn BatchHandler>,
    /// Probes the database and the mail server.
    pub notifications: Arc<dyn BatchHandler>,
    /// Probes the broker.
    pub topology: Arc<dyn Topology>,
    /// A relay that works waits for the broker while that blocks publishing, which no probe can see.
    pub relay: Activity,
}

impl OutageEnd {
    /// Probes until `stop` is cancelled.
    pub async fn run(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            if self.database.is_silent_for(SILENCE) && self.commands.probe().await.is_ok() {
                self.database.up();
            }
            if self.mail.is_silent_for(SILENCE) && self.notifications.probe().await.is_ok() {
                self.mail.up();
            }
            if self.broker.is_silent_for(SILENCE)
                && !self.relay.is_stalled(INTERVAL)
                && self.topology.queue_depths().await.is_ok()
            {
                self.broker.up();
            }
        }
    }
}
