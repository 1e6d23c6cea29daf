//! Listens, accepts connections, and finishes the requests that were begun.

use hyper_util::server::graceful::GracefulShutdown;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    super::http_server::{HttpLimits, bind, bind_when_available, serve},
    batcher::{BatcherOptions, CommandBatcher},
    request_body::BodyMemory,
    routes,
    state::{Api, ApiState},
};

/// The number of connections that are served concurrently. Each may have one command in a batcher.
const CONNECTIONS: usize = 2048;
/// The setting of the address.
const SETTING: &str = "api.listen";
/// The address in the log.
const ADDRESS: &str = "address of api.listen";

impl Api {
    /// Binds the address; `None` if another process has it, which may release it soon.
    ///
    /// # Errors
    /// The address can never be bound.
    pub async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        bind(self.listen, SETTING).await
    }

    /// Serves until `stop`, then finishes the requests that were begun. Without a listener it waits for the address.
    pub async fn run(self, listener: Option<TcpListener>, stop: &CancellationToken) {
        let listener = match listener {
            Some(listener) => Some(listener),
            None => bind_when_available(self.listen, ADDRESS, stop).await,
        };
        let Some(listener) = listener else { return };
        info!(listen = %self.listen, "serving HTTP");
        let limits = HttpLimits { connections: CONNECTIONS, keep_alive: self.keep_alive };
        let (router, mut tasks) = self.router();
        let connections = GracefulShutdown::new();
        tokio::select! {
            () = serve(&listener, router, &connections, limits, stop) => {}
            // The tasks run as long as the batcher exists: one that ends has panicked, which ends the process.
            Some(Err(panic)) = tasks.join_next() => std::panic::resume_unwind(panic.into_panic()),
        }
        drop(listener);
        connections.shutdown().await;
        tasks.join_all().await;
    }

    /// The router, and the tasks that it needs.
    pub(crate) fn router(self) -> (axum::Router, JoinSet<()>) {
        let (batcher, tasks) = CommandBatcher::start(&self.batcher_options());
        let body_memory = BodyMemory::new(self.body_memory);
        (routes::router(ApiState { api: self, batcher, body_memory }), tasks)
    }

    fn batcher_options(&self) -> BatcherOptions {
        BatcherOptions {
            handler: self.commands.clone(),
            tasks: self.tasks,
            max_batch: self.max_batch,
            max_waiting: CONNECTIONS,
            watchdog: self.watchdog.clone(),
            database: self.database.clone(),
            observer: self.observer.clone(),
        }
    }
}
