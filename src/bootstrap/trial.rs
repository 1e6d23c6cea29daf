//! Dry runs of failed messages.

use std::sync::Arc;

use crate::{
    adapters::{postgres::PgDryRuns, rabbitmq::RabbitRetryDelivery},
    service::trial::Trial,
};

use super::{app::App, policy::policy};

impl App {
    /// Handles failed messages without changing anything.
    #[must_use]
    pub fn trial(&self) -> Trial {
        Trial {
            dry_runs: Arc::new(PgDryRuns::new(self.pool.clone(), &self.pg)),
            delivery: Arc::new(RabbitRetryDelivery),
            policy: policy(&self.settings),
            limits: self.limits(),
            mail_to: self.settings.notifications.to.clone(),
        }
    }
}
