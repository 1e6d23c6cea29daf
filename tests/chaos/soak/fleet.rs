//! Two workers and two relays, each with a role of its own in the database. Until a fault comes the links are a little
//! slow, so that there is always something in flight. One of each works as it is shipped, the other in small portions.

use std::time::Duration;

use anyhow::Context as _;

use crate::{lab::NAMED, program::Program, proxy::Proxy, scenarios::leader, world::World};

/// How much later everything arrives. Light travels some 300 km in this time, and back.
const SLOW: Duration = Duration::from_millis(2);
/// Small units of work and few messages in hand: many transactions for a fault to meet.
const SMALL: [(&str, &str); 3] = [
    ("ALLOCATION__WORKER__MAX_BATCH", "2"),
    ("ALLOCATION__WORKER__PREFETCH", "20"),
    ("ALLOCATION__RELAY__MAX_IN_FLIGHT", "20"),
];

/// The processes under fire.
pub(crate) struct Fleet {
    /// In the order of [`NAMED`]: two workers, two relays.
    programs: [Option<Program>; 4],
    databases: Vec<Proxy>,
    pub(crate) broker: Proxy,
    /// Further variables in the environment of every process.
    settings: &'static [(&'static str, &'static str)],
}

impl Fleet {
    pub(crate) async fn start(
        world: &World<'_>,
        settings: &'static [(&'static str, &'static str)],
    ) -> anyhow::Result<Self> {
        let mut databases = Vec::new();
        for role in NAMED {
            databases.push(Proxy::to(&world.lab.postgres.url(role, &world.database)).await?);
        }
        let broker = Proxy::to(&world.lab.rabbit.url()).await?;
        let mut fleet = Self { programs: [None, None, None, None], databases, broker, settings };
        for place in 0..NAMED.len() {
            fleet.restart(world, place)?;
        }
        Ok(fleet)
    }

    /// Starts the process of a place, which is free.
    pub(crate) fn restart(&mut self, world: &World<'_>, place: usize) -> anyhow::Result<()> {
        let roles = if place < 2 { "worker" } else { "relay,archive" };
        let urls = [("DATABASE_URL", self.databases[place].url()), ("AMQP_URL", self.broker.url())];
        let sizes = if place.is_multiple_of(2) { &SMALL[..] } else { &[] };
        self.programs[place] = Some(world.start(roles, &[&urls[..], sizes, self.settings].concat())?);
        Ok(())
    }

    /// From now on everything arrives a little later.
    pub(crate) fn slow_links(&self) {
        self.delay(SLOW);
    }

    /// From now on everything arrives at once.
    pub(crate) fn fast_links(&self) {
        self.delay(Duration::ZERO);
    }

    fn delay(&self, delay: Duration) {
        self.databases.iter().chain([&self.broker]).for_each(|link| link.delay(delay));
    }

    /// Takes the process of a place away.
    pub(crate) fn take(&mut self, place: usize) -> anyhow::Result<Program> {
        self.programs[place].take().context("there is a process in every place")
    }

    /// Which relay leads.
    pub(crate) async fn leader(&self, world: &World<'_>) -> anyhow::Result<Option<usize>> {
        let leader = leader(world).await?;
        Ok(leader.and_then(|role| NAMED.iter().position(|named| *named == role)))
    }

    /// Resets every connection to the database.
    pub(crate) fn cut_database(&self) {
        self.databases.iter().for_each(Proxy::cut);
    }

    /// From now on new connections to the database are refused, or are not.
    pub(crate) fn refuse_database(&self, refuses: bool) {
        self.databases.iter().for_each(|link| link.refuse(refuses));
    }

    /// Nobody may have died whom we did not kill.
    pub(crate) fn survivors(&mut self) -> usize {
        self.programs.iter_mut().flatten().map(|program| usize::from(program.is_alive())).sum()
    }

    /// What they said last.
    pub(crate) fn tails(&self) -> Vec<String> {
        self.programs.iter().flatten().map(Program::tail).collect()
    }

    /// All of them, for the end; on links that are not slow any more.
    pub(crate) fn into_programs(self) -> (Vec<Program>, Vec<Proxy>) {
        self.fast_links();
        let links = self.databases.into_iter().chain([self.broker]).collect();
        (self.programs.into_iter().flatten().collect(), links)
    }
}
