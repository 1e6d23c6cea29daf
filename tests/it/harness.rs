//! Helpers of the tests: a system on real servers for each test, clients, fake servers, and faults of connections.

mod broker;
mod certificates;
mod collector;
mod commands;
mod database;
mod dump;
mod http;
mod in_process;
mod metrics;
mod namespace;
mod pgbouncer;
mod private_server;
mod process;
mod progress;
mod prometheus;
mod proxy;
mod roles;
mod smtp;
mod system;
mod wait;
mod workload;

pub(crate) use broker::{Event, RawMessage, assert_gapless, properties};
pub(crate) use certificates::{Certificates, skip};
pub(crate) use collector::{CollectorReply, ExportedSpan, TraceCollector};
pub(crate) use commands::{Command, Random, allocate, change_batch_quantity, create_batch, deallocate};
pub(crate) use database::{Database, NAMESPACE, Row};
pub(crate) use dump::dump;
pub(crate) use http::{Client, JSON, Response, free_address};
pub(crate) use in_process::{
    HandleAll, Interrupted, LIMITS, PREFETCH, bus, command, message, notification_handler, policy, queue_of,
    received,
};
pub(crate) use metrics::{ANY_PORT, Metrics, Scrape, metrics_address};
pub(crate) use namespace::{amqp_url, processes_of, unique};
pub(crate) use pgbouncer::PgBouncer;
pub(crate) use private_server::PrivatePostgres;
pub(crate) use process::{CliOutput, Running, as_tested_role};
pub(crate) use prometheus::has_prometheus;
pub(crate) use proxy::Proxy;
pub(crate) use roles::{GRANTS, ROLES};
pub(crate) use smtp::{Mail, MailServer};
pub(crate) use system::TestSystem;
pub(crate) use wait::{DRAINS_WITHIN, SOON, wait_for, wait_until};
pub(crate) use workload::{Workload, allocated_by};
