//! What is inspected before an operator trusts an installation.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{
    admin::DeclareResult,
    diagnosis::{DatabaseCondition, Observed},
    processes::ProcessRow,
};

/// What was inspected. Each part may be unknown by itself.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Whether the database can be used.
    pub condition: Observed<DatabaseCondition>,
    /// The server of the database.
    pub server: Observed<DatabaseServer>,
    /// How the schema differs from that of the migrations.
    pub drift: Observed<Vec<SchemaDifference>>,
    /// The privileges of the role.
    pub privileges: Observed<RolePrivileges>,
    /// Sessions of the database.
    pub sessions: Observed<Sessions>,
    /// What waits in the database.
    pub backlog: Observed<StoredBacklog>,
    /// The processes, as they report themselves.
    pub processes: Observed<Vec<ProcessRow>>,
    /// Whether a relay leads.
    pub relay_leads: Observed<bool>,
    /// The broker.
    pub broker: Observed<BrokerInspection>,
    /// The settings of this process.
    pub settings: InspectedSettings,
}

/// The settings that checks need.
#[derive(Clone, Debug, Default)]
pub struct InspectedSettings {
    /// Connections of each process to the database.
    pub max_connections: u32,
    /// Whether the database is on another machine.
    pub database_is_remote: bool,
    /// Whether sessions lead through a connection pooler.
    pub uses_pooler: bool,
    /// Passwords that others could read.
    pub exposed_passwords: Vec<String>,
    /// Settings that contradict each other.
    pub contradictions: Vec<String>,
    /// Whether metrics can be scraped.
    pub has_metrics: bool,
    /// The address of the collector of traces; empty if there are none.
    pub traces_endpoint: String,
    /// The retention of handled messages.
    pub inbox_retention: Duration,
}

/// The server of the database.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseServer {
    /// Its version as a number, for example 150020.
    pub version: i32,
    /// Whether the session is encrypted.
    pub is_encrypted: bool,
    /// The connections that it allows to roles that are no superusers.
    pub max_connections: u32,
    /// Its clock minus that of this machine, in seconds.
    pub clock_ahead: f64,
}

/// An object of the schema that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaDifference {
    /// Its kind and name.
    pub object: String,
    /// Its definition by the migrations; none if they do not define it.
    pub wanted: Option<String>,
    /// Its definition in the database; none if it is missing.
    pub found: Option<String>,
    /// The statements that create it, if there are any.
    pub fix: Vec<String>,
}

/// The privileges of the role of this session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolePrivileges {
    /// Its name.
    pub role: String,
    /// Whether it is a superuser.
    pub is_superuser: bool,
    /// Whether it owns the tables.
    pub is_owner: bool,
    /// Whether it may change any table.
    pub may_write: bool,
    /// Privileges that the program needs and the role does not have: privilege and table.
    pub missing: Vec<(String, String)>,
    /// Privileges that the program does not need and the role has.
    pub excess: Vec<(String, String)>,
}

/// Sessions of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Whether there are sessions that this role may not see.
    pub has_hidden: bool,
    /// Transactions that have lasted for more than five minutes.
    pub old_transactions: Vec<OldTransaction>,
    /// Sessions that wait for a lock, with those that they wait for.
    pub waiting: Vec<(i32, Vec<i32>)>,
}

/// A transaction that lasts long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldTransaction {
    /// The process id of its session.
    pub pid: i32,
    /// The application name of its session.
    pub application: String,
    /// When it began.
    pub since: OffsetDateTime,
}

/// What waits in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBacklog {
    /// Retries that the broker does not accept, up to a limit.
    pub held_retries: u64,
    /// Parked events, up to a limit.
    pub parked_events: u64,
    /// The age of the oldest event that is not published and not parked.
    pub oldest_event: Duration,
    /// How long the oldest handled message is kept beyond its retention.
    pub expired_for: Duration,
}

/// The broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInspection {
    /// Each exchange and queue; none of them is changed.
    pub topology: Vec<InspectedObject>,
    /// What this user may do.
    pub permissions: Vec<InspectedPermission>,
    /// Whether publishing is paused.
    pub alarm: Observed<bool>,
}

/// An exchange or queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectedObject {
    /// It does not exist.
    Missing(String),
    /// It exists.
    Exists(DeclareResult),
}

/// A permission that the program needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedPermission {
    /// `read` or `write`.
    pub permission: &'static str,
    /// The exchange or queue.
    pub object: String,
    /// Whether it is granted; unknown if the object does not exist.
    pub is_granted: Observed<bool>,
}

/// Inspects the broker and changes nothing.
#[async_trait]
pub trait BrokerInspector: Send + Sync {
    /// Inspects it within a few seconds.
    async fn inspect(&self) -> Observed<BrokerInspection>;
}
