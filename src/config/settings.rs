//! The settings as types. `config/default.toml` documents each of them.

#![expect(missing_docs, reason = "config/default.toml documents the settings")]

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    time::Duration,
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{
    optional_address,
    secret::{Secret, SecretUrl},
};

/// All settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub namespace: String,
    pub database: Database,
    pub broker: Broker,
    pub queues: Queues,
    pub worker: Worker,
    pub relay: Relay,
    pub api: Api,
    pub health: Health,
    pub metrics: Metrics,
    pub smtp: Smtp,
    pub notifications: Notifications,
    pub retry: Retry,
    pub limits: Limits,
    pub retention: Retention,
    pub log: Log,
    pub traces: Traces,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: SecretUrl,
    pub session_url: SecretUrl,
    pub max_connections: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    pub url: SecretUrl,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Queues {
    pub single_active_consumer: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub max_batch: NonZeroUsize,
    pub prefetch: NonZeroU16,
    pub partitions: NonZeroUsize,
    #[serde(with = "humantime_serde")]
    pub handler_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub requeue_after: Duration,
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    pub max_in_flight: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub listen: SocketAddr,
    pub token: Secret,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    #[serde(with = "optional_address")]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    #[serde(with = "optional_address")]
    pub listen: Option<SocketAddr>,
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    pub url: SecretUrl,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notifications {
    pub from: String,
    pub to: String,
    #[serde(with = "humantime_serde")]
    pub digest: Duration,
    #[serde(with = "humantime_serde")]
    pub retry_for: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub max_attempts: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub initial_interval: Duration,
    pub multiplier: f64,
    #[serde(with = "humantime_serde")]
    pub max_interval: Duration,
    pub jitter: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub memory: ByteSize,
    pub failed_messages: ByteSize,
    pub body_bytes: NonZeroUsize,
    pub header_bytes: NonZeroUsize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    #[serde(with = "humantime_serde")]
    pub inbox: Duration,
    #[serde(with = "humantime_serde")]
    pub failures: Duration,
    #[serde(with = "humantime_serde")]
    pub published: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    pub endpoint: String,
    pub ratio: f64,
    pub keep_failures: bool,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
}
