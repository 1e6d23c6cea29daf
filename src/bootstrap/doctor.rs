//! Checks of an installation: inspects everything at once, each part within a time limit of its own.

use std::time::Duration;

use crate::{
    adapters::rabbitmq::RabbitInspector,
    config::Settings,
    ports::{
        checks::{BrokerInspector as _, InspectedSettings, Inspection},
        diagnosis::DatabaseCondition,
    },
    service::checks::{Check, all_checks},
    views::Views,
};

use super::{app::App, diagnosis::within};

/// How long a query may take.
const TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// The results of all checks.
    pub async fn check(&self) -> Vec<Check> {
        let inspector = RabbitInspector(self.broker.clone());
        let (broker, condition) = tokio::join!(inspector.inspect(), self.database_condition());
        let unknown = condition.is_err().then(|| "the database cannot be used".to_owned());
        let unknown = unknown.as_ref();
        let other = match &condition {
            Ok(DatabaseCondition::Unusable(_)) => Some("the schema is not that of this program".to_owned()),
            _ => unknown.cloned(),
        };
        let views = Views::new(self.pool.clone(), self.settings.namespace.clone(), TIMEOUT);
        let settings = inspected_settings(&self.settings);
        let leader = async { Ok(views.relay_leader().await?.is_some()) };
        let (server, drift, privileges, sessions, backlog, processes, relay_leads) = tokio::join!(
            within(unknown, views.database_server()),
            within(other.as_ref(), views.schema_drift()),
            within(other.as_ref(), views.role_privileges()),
            within(unknown, views.sessions()),
            within(other.as_ref(), views.stored_backlog(settings.inbox_retention)),
            within(unknown, views.processes()),
            within(unknown, leader),
        );
        all_checks(&Inspection {
            condition,
            server,
            drift,
            privileges,
            sessions,
            backlog,
            processes,
            relay_leads,
            broker,
            settings,
        })
    }
}

fn inspected_settings(settings: &Settings) -> InspectedSettings {
    InspectedSettings {
        max_connections: settings.database.max_connections.get(),
        database_is_remote: settings.database_is_remote(),
        uses_pooler: !settings.database.session_url.expose().is_empty(),
        exposed_passwords: settings.warnings(),
        contradictions: settings.contradictions(),
        has_metrics: settings.metrics.listen.is_some(),
        traces_endpoint: settings.traces.endpoint.clone(),
        inbox_retention: settings.retention.inbox,
    }
}
