//! Serves the health checks at an address of their own: also processes without the role `api` have them.

use std::{net::SocketAddr, time::Duration};

use axum::http::StatusCode;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    super::http_server::{HttpLimits, bind, bind_when_available, serve},
    routes::Health,
};

/// One prober asks every few seconds.
const LIMITS: HttpLimits = HttpLimits { connections: 32, keep_alive: Duration::from_mins(2) };
/// The setting of the address.
const SETTING: &str = "health.listen";
/// The address in the log.
const ADDRESS: &str = "address of health.listen";

/// Serves `/health/live` and `/health/ready`.
pub struct HealthServer {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The checks.
    pub health: Health,
}

impl HealthServer {
    /// Binds the address; `None` if another process has it, which may release it soon.
    ///
    /// # Errors
    /// The address can never be bound.
    pub async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        bind(self.listen, SETTING).await
    }

    /// Serves until the process ends: during a shutdown, too. Without a listener it waits for the address.
    pub async fn run(self, listener: Option<TcpListener>) {
        let never = CancellationToken::new();
        let listener = match listener {
            Some(listener) => Some(listener),
            None => bind_when_available(self.listen, ADDRESS, &never).await,
        };
        let Some(listener) = listener else { return };
        info!(listen = %self.listen, "serving health checks");
        let not_found =
            async || (StatusCode::NOT_FOUND, "no such path; there are /health/live and /health/ready\n");
        let router = self.health.router().fallback(not_found);
        serve(&listener, router, &GracefulShutdown::new(), LIMITS, &never).await;
    }
}
