//! Serves the metrics: one path, without a token. It contains numbers and names of this program only.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::server::graceful::GracefulShutdown;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ports::{
    observer::{Exposition, QueueActivity},
    queue::QueueName,
};

use super::{
    super::{
        http_server::{HttpLimits, serve},
        watchdog::Watchdog,
    },
    listener::bind,
};

/// Few clients scrape, each once in some seconds.
const LIMITS: HttpLimits = HttpLimits { connections: 32, keep_alive: Duration::from_mins(2) };

/// Serves `/metrics`.
#[derive(Clone)]
pub struct MetricsServer {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Writes the metrics.
    pub exposition: Arc<dyn Exposition>,
    /// Observes the partitions of this process.
    pub watchdog: Watchdog,
}

impl MetricsServer {
    /// Binds the address, or one of the next nine ports, and returns a future that serves. Without a free port nothing is
    /// served, and the process works.
    ///
    /// # Errors
    /// The address can never be bound.
    pub async fn bind(self) -> anyhow::Result<Option<impl Future<Output = ()> + use<>>> {
        let listen = self.listen;
        let listener = match bind(listen).await {
            Ok(listener) => listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                warn!(%listen, "metrics are not served: this port and the next nine are taken (metrics.listen)");
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot listen on {listen} (metrics.listen)"));
            }
        };
        let listen = listener.local_addr()?;
        info!(%listen, "serving metrics");
        Ok(Some(async move {
            // Until the process ends: a scrape during the shutdown is answered.
            let never = CancellationToken::new();
            serve(&listener, self.router(), &GracefulShutdown::new(), LIMITS, &never).await;
        }))
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .fallback(async || (StatusCode::NOT_FOUND, "no such path; metrics are at /metrics\n"))
            .with_state(Arc::new(self))
    }

    fn activity(&self) -> [QueueActivity; QueueName::ALL.len()] {
        QueueName::ALL.map(|queue| QueueActivity {
            queue,
            unacknowledged: self.watchdog.unacknowledged(queue),
            busy_for: self.watchdog.busy_for(queue),
        })
    }
}

async fn metrics(State(server): State<Arc<MetricsServer>>) -> Response {
    let text = server.exposition.expose(&server.activity());
    ([(header::CONTENT_TYPE, server.exposition.content_type())], text).into_response()
}
