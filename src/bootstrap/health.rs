//! The health checks of a process, and their server.

use std::{sync::Arc, time::Duration};

use crate::{
    entrypoints::health::{Health, HealthServer, LastReport, Readiness, StallTimeouts},
    service::outage_end::OutageEnd,
};

use super::app::App;

/// A unit of work counts as stalled after this many handler timeouts: its commands may be handled one by one, and each has
/// the full timeout.
const STALL_TIMEOUT_FACTOR: u32 = 60;

impl App {
    /// The health checks.
    pub(super) fn health(&self) -> Health {
        let stall_timeouts = StallTimeouts {
            partition: self.partition_stall_timeout(),
            relay: self.settings.relay.stall_timeout,
        };
        let readiness = Readiness {
            checked: self.checked.clone(),
            installation: Arc::new(self.installation()),
            namespace: self.settings.namespace.clone(),
            database: self.database_log.clone(),
            broker: self.broker_log.clone(),
            commands: self.commands.clone(),
            topology: Arc::new(self.topology()),
            watchdog: self.watchdog.clone(),
            storage: self.storage.clone(),
            last: LastReport::default(),
        };
        Health::new(self.watchdog.clone(), stall_timeouts, readiness)
    }

    /// A partition that is busy with one batch for longer is stalled.
    pub(super) fn partition_stall_timeout(&self) -> Duration {
        self.settings.worker.handler_timeout * STALL_TIMEOUT_FACTOR
    }

    /// Notices the end of outages.
    pub(super) fn outage_end(&self) -> OutageEnd {
        OutageEnd {
            database: self.database_log.clone(),
            broker: self.broker_log.clone(),
            mail: self.mail_log.clone(),
            commands: self.commands.clone(),
            notifications: self.notifications.clone(),
            topology: Arc::new(self.topology()),
            relay: self.watchdog.relay(),
        }
    }

    /// The server of the health checks, unless `health.listen` is empty.
    pub(super) fn health_server(&self) -> Option<HealthServer> {
        Some(HealthServer { listen: self.settings.health.listen?, health: self.health() })
    }

    /// Where a process with these settings answers health checks.
    #[must_use]
    pub fn health_address(&self) -> std::net::SocketAddr {
        self.settings.health.listen.unwrap_or(self.settings.api.listen)
    }
}
