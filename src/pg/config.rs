//! How connections are made.

use std::{str::FromStr as _, time::Duration};

use sqlx::postgres::PgConnectOptions;

use crate::address::{POSTGRES, ServerUrl};

use super::{
    pool::Pool,
    session_options::{LOCK_TIMEOUT, SessionOptions, assignments, without_settings},
};

/// Time after `database.timeout` at which the server cancels a statement itself.
const SERVER_MARGIN: Duration = Duration::from_secs(5);

/// Planner settings of every connection: always use an index. Cached plans stay in use until the tables are analyzed; a plan
/// that was made while a table was small would read the whole table after it has grown.
pub const PLANNER: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"), // The cost of disabled plans would exceed its threshold.
];

/// Where names are looked up: not in a schema with the name of the role, which another role may create, and in no temporary
/// one before. The server's own schema comes first.
const SEARCH_PATH: (&str, &str) = ("search_path", "public,pg_temp");

/// The database and its time limits.
#[derive(Clone, Debug)]
pub struct PgConfig {
    /// The URL of the pooled connections.
    url: PgConnectOptions,
    /// The URL of the sessions that need a connection of their own, if the pooled ones lead through a pooler.
    session_url: Option<PgConnectOptions>,
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
        Ok(Self { url: connect_options(url)?, session_url: None, max_connections, timeout })
    }

    /// The pooled connections may lead through a pooler, and what needs a session of its own uses another URL.
    ///
    /// # Errors
    /// The URL is invalid. The message does not contain it, since it may contain a password.
    pub fn with_session_url(self, url: &str) -> Result<Self, sqlx::Error> {
        Ok(Self { session_url: Some(connect_options(url)?), ..self })
    }

    /// The setting that holds the URL of [`Self::session`].
    pub(crate) fn session_setting(&self) -> &'static str {
        if self.session_url.is_some() { "database.session_url" } else { "database.url (or DATABASE_URL)" }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        // Later than the client gives up: a statement that takes so long is an outage, and no failure of its message.
        let statement_timeout = format!("{}ms", (self.timeout + SERVER_MARGIN).as_millis());
        let limits = [
            ("statement_timeout", statement_timeout),
            ("lock_timeout", LOCK_TIMEOUT.to_owned()),
            ("idle_in_transaction_session_timeout", "60s".to_owned()),
        ];
        let planner = PLANNER.map(|(name, value)| (name, value.to_owned()));
        limits.into_iter().chain(planner).chain(self.search_path()).collect()
    }

    /// None if the URL has one.
    fn search_path(&self) -> Option<(&'static str, String)> {
        let url = self.session_url.as_ref().unwrap_or(&self.url);
        let has_own = url.get_options().is_some_and(|options| options.contains("search_path"));
        let (name, value) = SEARCH_PATH;
        (!has_own).then(|| (name, value.to_owned()))
    }

    fn session_options(&self, name: &str, settings: &[(&str, String)]) -> SessionOptions {
        match &self.session_url {
            None => SessionOptions::direct(&self.url, name, settings),
            Some(url) => SessionOptions::through_pooler(url, name, settings),
        }
    }

    /// A session of its own, as the relay needs.
    pub(crate) fn session(&self) -> SessionOptions {
        self.session_options("allocation", &self.settings())
    }

    /// A session that migrates: its statements may take long, but do not wait long for a lock.
    pub(crate) fn migration_session(&self) -> SessionOptions {
        // One session waits in a transaction while another one migrates.
        let unlimited = ["statement_timeout", "idle_in_transaction_session_timeout"];
        let limits = unlimited.map(|name| (name, "0".to_owned()));
        let lock_timeout = ("lock_timeout", LOCK_TIMEOUT.to_owned());
        let settings: Vec<_> = limits.into_iter().chain([lock_timeout]).chain(self.search_path()).collect();
        self.session_options("allocation migrate", &settings)
    }

    /// A pool that connects when it is first used.
    #[must_use]
    pub fn pool(&self) -> Pool {
        if self.session_url.is_none() {
            let options = self.session().driver_options().clone();
            return Pool::new(options, self.max_connections, None);
        }
        // No prepared statement is kept, so each is prepared in the transaction that executes it.
        let options = without_settings(&self.url, "allocation").statement_cache_capacity(0);
        let begin = format!("begin;deallocate all;{}", assignments("set local", &self.settings()));
        Pool::new(options, self.max_connections, Some(&begin))
    }
}
