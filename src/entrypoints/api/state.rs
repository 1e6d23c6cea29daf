//! What the routes share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    ports::observer::Observer,
    service::{availability::AvailabilityLog, batch_handler::BatchHandler, decode::Limits},
    views::Views,
};

use super::{
    super::{health::Health, watchdog::Watchdog},
    batcher::CommandBatcher,
    request_body::BodyMemory,
};

/// The options and the dependencies of the HTTP server.
pub struct Api {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The token that clients must send, if there is one.
    pub token: Option<String>,
    /// How long a request may take, including reading it.
    pub timeout: Duration,
    /// How long an idle connection is kept open.
    pub keep_alive: Duration,
    /// The largest allowed command.
    pub limits: Limits,
    /// The memory for the bodies of all requests, in bytes.
    pub body_memory: usize,
    /// The number of batches per queue that are handled concurrently.
    pub tasks: usize,
    /// The largest number of commands in a batch.
    pub max_batch: usize,
    /// Handles commands.
    pub commands: Arc<dyn BatchHandler>,
    /// Answers queries.
    pub views: Views,
    /// Cancelled once the database was checked: no command is handled before that.
    pub checked: CancellationToken,
    /// Observes the partitions of this process.
    pub watchdog: Watchdog,
    /// The availability of the database.
    pub database: Arc<AvailabilityLog>,
    /// The health checks.
    pub health: Health,
    /// Gets the reports.
    pub observer: Arc<dyn Observer>,
}

/// The state of the router.
pub(super) struct ApiState {
    pub(super) api: Api,
    pub(super) batcher: CommandBatcher,
    pub(super) body_memory: BodyMemory,
}
