//! HTTP: the book's API and a little more, handled through the same bus and units of work as messages.

mod auth;
mod batcher;
mod health;
mod responses;
mod routes;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    ports::{
        admin::{Schema, Topology},
        error::{Cause, error_text},
    },
    service::{availability::AvailabilityLog, backoff::Backoff, decode::Limits, message_bus::MessageBus},
    views::Views,
};

use super::watchdog::Watchdog;

use batcher::CommandBatcher;
use health::Readiness;

/// Connections that are served at a time; further ones wait.
const CONNECTIONS: usize = 2048;
/// A client that takes longer to say what it wants, or is silent for longer between two requests, is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Request line and headers together.
const HEADER_BYTES: usize = 64 * 1024;

/// What HTTP needs.
pub struct Api {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What clients must prove to know, if anything.
    pub token: Option<String>,
    /// How long a request may take, its reading included.
    pub timeout: Duration,
    /// How large a command may be.
    pub limits: Limits,
    /// Units of work in flight per queue at most.
    pub tasks: usize,
    /// Commands in one unit of work at most.
    pub max_batch: usize,
    /// A lane that is busy with the same for longer is stuck.
    pub stuck_after: Duration,
    /// Who handles commands.
    pub bus: MessageBus,
    /// Who answers questions.
    pub views: Views,
    /// Whether the broker is ready.
    pub topology: Arc<dyn Topology>,
    /// Whether the database is.
    pub schema: Arc<dyn Schema>,
    /// How the consumers of this process are.
    pub watchdog: Watchdog,
    /// What is told when the database is away.
    pub database: Arc<AvailabilityLog>,
}

/// What every request is answered from.
struct ApiState {
    api: Api,
    desk: CommandBatcher,
    readiness: Readiness,
}

impl Api {
    /// Takes the address; none if another process has it, which may be over soon.
    ///
    /// # Errors
    /// The address can never be taken.
    pub async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        match TcpListener::bind(self.listen).await {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("cannot listen on {} (api.listen)", self.listen))
            }
        }
    }

    /// Serves until `stop`, then finishes the requests that were begun. Waits for an address that is taken.
    pub async fn run(self, listener: Option<TcpListener>, stop: &CancellationToken) {
        let listener = match listener {
            Some(listener) => Some(listener),
            None => self.bind_with_retries(stop).await,
        };
        let Some(listener) = listener else { return };
        info!(listen = %self.listen, "serving HTTP");
        let (desk, mut at_work) = CommandBatcher::open(&self);
        let readiness = Readiness::new(self.schema.clone(), self.topology.clone());
        let service = TowerToHyperService::new(routes::router(ApiState { api: self, desk, readiness }));
        let connections = GracefulShutdown::new();
        tokio::select! {
            () = serve(&listener, &service, &connections, stop) => {}
            // The desk is there as long as it is asked: a lane that ends has panicked, and the process with it.
            Some(Err(panic)) = at_work.join_next() => std::panic::resume_unwind(panic.into_panic()),
        }
        drop((listener, service));
        connections.shutdown().await;
        at_work.join_all().await;
    }

    async fn bind_with_retries(&self, stop: &CancellationToken) -> Option<TcpListener> {
        let taken = AvailabilityLog::of("address of api.listen");
        for delay in Backoff::during_outage() {
            match TcpListener::bind(self.listen).await {
                Ok(listener) => {
                    taken.up();
                    return Some(listener);
                }
                Err(error) => taken.down(&Cause::from(format!("{}: {error}", self.listen))),
            }
            stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
        }
        None
    }
}

async fn serve(
    listener: &TcpListener,
    service: &TowerToHyperService<axum::Router>,
    connections: &GracefulShutdown,
    stop: &CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(HEADER_BYTES);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(stream) = stop.run_until_cancelled(accept(listener)).await {
        let Some(place) = stop.run_until_cancelled(places.clone().acquire_owned()).await else { return };
        let served = connections.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                debug!(error = error_text(&error), "connection closed with an error");
            }
            drop(place);
        });
    }
}

/// The next client; a process that has no more descriptors waits until it has.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                debug!(error = error_text(&error), "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
