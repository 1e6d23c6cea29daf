//! How connections are made.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    Executor as _, Row as _,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};

use crate::address::{POSTGRES, ServerUrl};

/// A connection that was idle for longer is tested before it is used: it may be broken.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Time to wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time after `database.timeout` at which the server cancels a statement itself.
const SERVER_MARGIN: Duration = Duration::from_secs(5);

/// How long a migration waits for a lock: everything that uses the table waits behind it.
const MIGRATION_LOCK_TIMEOUT: &str = "2s";

/// Planner settings of every connection: always use an index. Cached plans stay in use until the tables are analyzed; a plan
/// that was made while a table was small would read the whole table after it has grown.
pub const PLANNER: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"), // The cost of disabled plans would exceed its threshold.
];

/// The database and its time limits.
#[derive(Clone, Debug)]
pub struct PgConfig {
    /// The URL, without settings of the session.
    url: PgConnectOptions,
    pub(crate) options: PgConnectOptions,
    max_connections: u32,
    /// Time to wait for a connection or a reply before the database is considered unavailable.
    pub(crate) timeout: Duration,
}

/// What a URL says about the server.
pub(crate) fn connect_options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let address =
        ServerUrl::parse(url, &POSTGRES).map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let options = PgConnectOptions::from_str(url.trim())?;
    // The driver keeps the brackets of an IPv6 address, which are no part of the name in a certificate.
    let is_overridden = ["host", "hostaddr"].iter().any(|name| address.parameter(name).is_some());
    let host = address.hosts.first().filter(|host| host.name.contains(':') && !is_overridden);
    Ok(host.map_or(options.clone(), |host| options.host(&host.name)))
}

impl PgConfig {
    /// Parses a `postgres://` URL. The server cancels statements that exceed the timeout, and plans as [`PLANNER`] says.
    ///
    /// # Errors
    /// The URL is invalid. The message does not contain it, since it may contain a password.
    pub fn new(url: &str, max_connections: u32, timeout: Duration) -> Result<Self, sqlx::Error> {
        let url = connect_options(url)?;
        // Later than the client gives up: a statement that takes so long is an outage, and no failure of its message.
        let statement_timeout = format!("{}ms", (timeout + SERVER_MARGIN).as_millis());
        let options = url.clone().application_name("allocation").options([
            ("statement_timeout", statement_timeout.as_str()),
            ("lock_timeout", "2s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        Ok(Self { url, options: options.options(PLANNER), max_connections, timeout })
    }

    /// The options of a session that migrates: its statements may take long, but do not wait long for a lock.
    pub(crate) fn migration_options(&self) -> PgConnectOptions {
        self.url
            .clone()
            .application_name("allocation migrate")
            .options([("lock_timeout", MIGRATION_LOCK_TIMEOUT), ("statement_timeout", "0")])
    }

    /// A pool that connects when it is first used.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.max_connections)
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
            .connect_lazy_with(self.options.clone())
    }
}
