//! What the HTTP servers have in common: they accept connections, and limit their number and the time of a request's headers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    ports::error::Cause,
    service::{availability::AvailabilityLog, backoff::Backoff},
};

use super::connections::{Connections, OnConnection};

/// The size of request line and headers together.
const HEADER_BYTES: usize = 16 * 1024;
/// The pause after a connection could not be accepted: usually all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpLimits {
    /// The number of connections that are served concurrently.
    pub(super) connections: usize,
    /// How long an idle connection is kept open, and how long the headers of a request may take: a client that sends them
    /// slowly is idle.
    pub(super) keep_alive: Duration,
}

/// Binds an address; `None` if another process has it, which may release it soon.
///
/// # Errors
/// The address can never be bound; `setting` names where it comes from.
pub(super) async fn bind(listen: SocketAddr, setting: &str) -> anyhow::Result<Option<TcpListener>> {
    match TcpListener::bind(listen).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot listen on {listen} ({setting})")),
    }
}

/// Binds an address, which is called `name` in the log, as soon as no other process has it.
pub(super) async fn bind_when_available(
    listen: SocketAddr,
    name: &'static str,
    stop: &CancellationToken,
) -> Option<TcpListener> {
    let address = AvailabilityLog::of(name);
    for delay in Backoff::during_outage() {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                address.up();
                return Some(listener);
            }
            Err(error) => address.down(&Cause::from(format!("{listen}: {error}"))),
        }
        stop.run_until_cancelled(tokio::time::sleep(delay)).await?;
    }
    None
}

/// Serves until `stop`. The requests that were begun then are finished by the `shutdown`.
pub(super) async fn serve(
    listener: &TcpListener,
    router: axum::Router,
    shutdown: &GracefulShutdown,
    limits: HttpLimits,
    stop: &CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.keep_alive).max_buf_size(HEADER_BYTES);
    let connections = Connections::new(limits.connections);
    while let Some((stream, peer)) = stop.run_until_cancelled(accept(listener)).await {
        let Some(connection) = stop.run_until_cancelled(connections.open()).await else { return };
        let connection = Arc::new(connection);
        let service = OnConnection { service: service.clone(), connection: connection.clone(), peer };
        let served = shutdown.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                served = served => if let Err(error) = served {
                    debug!(%error, "connection ended with an error");
                },
                () = connection.replaced.cancelled() => debug!("idle connection replaced by a new one"),
            }
        });
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                debug!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
