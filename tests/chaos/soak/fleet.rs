//! Two workers and two relays, each with its own database role. Connections are delayed until the fault, so that work
//! is in flight. One of each kind uses the default settings, the other small limits.

use std::time::Duration;

use anyhow::Context as _;

use crate::{
    cluster::PROCESS_ROLES, program::Program, proxy::Proxy, scenarios::leader, test_system::TestSystem,
};

/// The delay of each connection, about a round trip of 300 km.
const LINK_DELAY: Duration = Duration::from_millis(2);
/// Small units of work and a small prefetch: many transactions that a fault can interrupt.
const SMALL_LIMITS: [(&str, &str); 3] = [
    ("ALLOCATION__WORKER__MAX_BATCH", "2"),
    ("ALLOCATION__WORKER__PREFETCH", "20"),
    ("ALLOCATION__RELAY__MAX_IN_FLIGHT", "20"),
];

/// The processes of a soak.
pub(crate) struct Fleet {
    /// In the order of [`PROCESS_ROLES`]: two workers, two relays.
    programs: [Option<Program>; 4],
    databases: Vec<Proxy>,
    pub(crate) broker: Proxy,
    /// Additional environment variables of every process.
    settings: &'static [(&'static str, &'static str)],
}

impl Fleet {
    pub(crate) async fn start(
        system: &TestSystem<'_>,
        settings: &'static [(&'static str, &'static str)],
    ) -> anyhow::Result<Self> {
        let mut databases = Vec::new();
        for role in PROCESS_ROLES {
            databases.push(Proxy::start(&system.cluster.postgres.url(role, &system.database)).await?);
        }
        let broker = Proxy::start(&system.cluster.rabbit.url()).await?;
        let mut fleet = Self { programs: [None, None, None, None], databases, broker, settings };
        for index in 0..PROCESS_ROLES.len() {
            fleet.restart(system, index)?;
        }
        Ok(fleet)
    }

    /// Starts the process of an unoccupied index.
    pub(crate) fn restart(&mut self, system: &TestSystem<'_>, index: usize) -> anyhow::Result<()> {
        let roles = if index < 2 { "worker" } else { "relay,archive" };
        let urls = [("DATABASE_URL", self.databases[index].url()), ("AMQP_URL", self.broker.url())];
        let limits = if index.is_multiple_of(2) { &SMALL_LIMITS[..] } else { &[] };
        self.programs[index] = Some(system.start(roles, &[&urls[..], limits, self.settings].concat())?);
        Ok(())
    }

    /// From now on connections are delayed.
    pub(crate) fn slow_links(&self) {
        self.delay(LINK_DELAY);
    }

    /// From now on connections are not delayed.
    pub(crate) fn fast_links(&self) {
        self.delay(Duration::ZERO);
    }

    fn delay(&self, delay: Duration) {
        self.databases.iter().chain([&self.broker]).for_each(|proxy| proxy.delay(delay));
    }

    /// Removes and returns the process of an index.
    pub(crate) fn take(&mut self, index: usize) -> anyhow::Result<Program> {
        self.programs[index].take().context("there is a process at every index")
    }

    /// The index of the leading relay.
    pub(crate) async fn leader(&self, system: &TestSystem<'_>) -> anyhow::Result<Option<usize>> {
        let leader = leader(system).await?;
        Ok(leader.and_then(|role| PROCESS_ROLES.iter().position(|named| *named == role)))
    }

    /// Resets every connection to the database.
    pub(crate) fn cut_database_connections(&self) {
        self.databases.iter().for_each(Proxy::cut);
    }

    /// Whether new connections to the database are refused.
    pub(crate) fn refuse_database_connections(&self, refuse: bool) {
        self.databases.iter().for_each(|proxy| proxy.refuse_connections(refuse));
    }

    /// The number of running processes.
    pub(crate) fn alive_count(&mut self) -> usize {
        self.programs.iter_mut().flatten().map(|program| usize::from(program.is_alive())).sum()
    }

    /// The last log lines of each process.
    pub(crate) fn tails(&self) -> Vec<String> {
        self.programs.iter().flatten().map(Program::tail).collect()
    }

    /// All processes, for the end; connections are not delayed any more.
    pub(crate) fn into_programs(self) -> (Vec<Program>, Vec<Proxy>) {
        self.fast_links();
        let proxies = self.databases.into_iter().chain([self.broker]).collect();
        (self.programs.into_iter().flatten().collect(), proxies)
    }
}
