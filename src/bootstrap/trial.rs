//! What operators ask about messages: dry runs and histories.

use std::sync::Arc;

use crate::{
    adapters::{postgres::PgDryRuns, rabbitmq::RabbitRetryDelivery},
    service::trial::Trial,
    views::KeptFor,
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

    /// How long rows are kept that a history is made of.
    #[must_use]
    pub fn kept_for(&self) -> KeptFor {
        let retention = &self.settings.retention;
        KeptFor { inbox: retention.inbox, published: retention.published }
    }
}
