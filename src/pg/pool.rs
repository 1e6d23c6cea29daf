//! The pool of connections, which may lead through a connection pooler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Executor as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::session_options;

/// A connection that was idle for longer is tested before it is used: it may be broken.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Time to wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A pool of connections.
///
/// Behind a pooler in transaction mode, each transaction may run in another session of the server, which also serves other
/// processes. Nothing that belongs to a session may then outlive a transaction: every statement is part of one, which
/// begins with the settings, and without the statements that other processes have prepared under the same names.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: PgPool,
    /// Begins a transaction.
    begin: Arc<str>,
    /// Whether sessions of the server are shared with other processes.
    is_shared: bool,
    /// Whether a connection has its settings. All of them have them, or none.
    is_checked: Arc<AtomicBool>,
}

impl Pool {
    /// A pool that connects when it is first used. With `begin`, sessions of the server are shared with other processes,
    /// and this text begins a transaction.
    pub(super) fn new(options: PgConnectOptions, max_connections: u32, begin: Option<&str>) -> Self {
        let connections = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for < TEST_AFTER_IDLE {
                        return Ok(true);
                    }
                    // False inside a transaction that was left open: the connection is then closed. As a prepared
                    // statement it would always be false.
                    connection.fetch_one("select now() = statement_timestamp()").await?.try_get(0)
                })
            })
            .connect_lazy_with(options);
        let is_shared = begin.is_some();
        let is_checked = Arc::new(AtomicBool::new(is_shared));
        Self { connections, begin: begin.unwrap_or("begin").into(), is_shared, is_checked }
    }

    pub(super) fn connections(&self) -> &PgPool {
        &self.connections
    }

    pub(super) fn begin(&self) -> &str {
        &self.begin
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether a connection has its settings; the server is asked once.
    pub(super) async fn has_settings(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        if !self.is_checked.load(Ordering::Relaxed) {
            if !session_options::has_settings(connection).await? {
                return Ok(false);
            }
            self.is_checked.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }
}

/// Connections that need no settings.
impl From<PgPool> for Pool {
    fn from(connections: PgPool) -> Self {
        let is_checked = Arc::new(AtomicBool::new(true));
        Self { connections, begin: "begin".into(), is_shared: false, is_checked }
    }
}
