//! Faults of servers and of the way to them: the processes go on by themselves, and nothing is lost, doubled or blamed.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use url::Url;

use crate::harness::{
    Command, Proxy, Running, SOON, TestSystem, Workload, allocate, amqp_url, create_batch, wait_for,
    wait_until,
};

/// A server that is available again is found within this time, on a machine that is not too busy.
const FOUND_AGAIN_WITHIN: Duration = Duration::from_secs(10);
/// An outage lasts until the worker has asked for so many connections in vain.
const ASKED_IN_VAIN: usize = 10;

/// The server a fault cuts off.
#[derive(Clone, Copy)]
enum Server {
    Broker,
    Database,
}

/// A worker that reaches one of its servers through a proxy, and a season for it to work on.
struct FaultSetup {
    system: TestSystem,
    proxy: Proxy,
    worker: Running,
    season: Workload,
}

impl FaultSetup {
    async fn new(name: &str, fault: Server, environment: &[(&str, &str)]) -> Self {
        let system = TestSystem::new(name).await;
        system.expect_repeats();
        let (variable, url, port) = match fault {
            Server::Broker => ("AMQP_URL", amqp_url(), 5672),
            Server::Database => ("DATABASE_URL", system.database_url(), 5432),
        };
        let proxy = Proxy::to(&url, port).await;
        let worker = system.worker_with(&[environment, &[(variable, proxy.url())]].concat());
        let season = Workload::seeded(7, 1500);
        season.open(&system).await;
        Self { system, proxy, worker, season }
    }

    fn halves(&self) -> (&[Command], &[Command]) {
        self.season.commands.split_at(self.season.commands.len() / 2)
    }

    /// Lets an outage last until the worker has noticed it, and has asked for so many connections in vain.
    async fn outage_lasts(&self, what: &str, asked: usize) {
        let noticed = async || self.worker.log().contains(&format!("{what} unavailable"));
        wait_until("the outage is noticed", SOON, noticed).await;
        let enough = self.proxy.newcomers() + asked;
        wait_until("the worker asks again", SOON, async || self.proxy.newcomers() >= enough).await;
    }

    /// All is done in the end, by the process that was there from the beginning, and the fault counts against no command.
    async fn finish(mut self) {
        self.season.assert_all_is_done(&self.system).await;
        assert!(self.worker.is_alive());
        assert_eq!(self.system.count("select count(*) from failed_messages").await, 0);
        self.system.close_after([self.worker]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_survived() {
    let system = TestSystem::new("a_deleted_queue_is_survived").await;
    let mut worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    system.wait_drained(2).await;

    let deleted = system.channel().queue_delete(system.named("orders").into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    system.cli(&["topology"]).await.exits(0);
    system.sender.send(&allocate("o-2", "LAMP", 1)).await;
    let flows = async || system.handled().await;
    wait_for("commands flow again", Duration::from_secs(10), &3, flows).await;
    system.settled(3).await;
    assert!(worker.is_alive());
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_to_the_broker_are_survived() {
    let stage = FaultSetup::new("cut_connections_to_the_broker_are_survived", Server::Broker, &[]).await;
    for part in stage.season.parts(4) {
        stage.system.get_under_way(part, 50).await;
        stage.proxy.cut();
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_turns_everybody_away_is_waited_for() {
    let stage =
        FaultSetup::new("a_broker_that_turns_everybody_away_is_waited_for", Server::Broker, &[]).await;
    let (before, meanwhile) = stage.halves();
    stage.system.get_under_way(before, 50).await;
    stage.proxy.refuse(true);
    stage.proxy.cut();
    stage.system.sender.send_all(meanwhile).await;
    stage.outage_lasts("broker", ASKED_IN_VAIN / 2).await;
    stage.proxy.refuse(false);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_to_the_database_are_survived() {
    let stage = FaultSetup::new("cut_connections_to_the_database_are_survived", Server::Database, &[]).await;
    for part in stage.season.parts(4) {
        stage.system.get_under_way(part, 50).await;
        stage.proxy.cut();
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_turns_everybody_away_counts_against_nobody() {
    let name = "a_database_that_turns_everybody_away_counts_against_nobody";
    let stage = FaultSetup::new(name, Server::Database, &[]).await;
    let (before, meanwhile) = stage.halves();
    stage.system.get_under_way(before, 50).await;
    stage.proxy.refuse(true);
    stage.proxy.cut();
    stage.system.sender.send_all(meanwhile).await;
    stage.outage_lasts("database", ASKED_IN_VAIN).await;

    let handled = stage.system.handled().await;
    stage.proxy.refuse(false);
    let goes_on = async || stage.system.handled().await > handled;
    wait_until("the database is found again", FOUND_AGAIN_WITHIN, goes_on).await;
    stage.finish().await;
}

/// A database that does not answer while its connections look alive, until something ends it.
async fn freeze(name: &str, end: impl FnOnce(&Proxy)) {
    let impatient = [("ALLOCATION__DATABASE__TIMEOUT", "2s")];
    let stage = FaultSetup::new(name, Server::Database, &impatient).await;
    let (before, meanwhile) = stage.halves();
    stage.system.get_under_way(before, 50).await;
    stage.proxy.freeze();
    stage.system.sender.send_all(meanwhile).await;
    // Each of these connections waits for an answer until it is given up.
    stage.outage_lasts("database", 6).await;
    end(&stage.proxy);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_silent_and_answers_late_is_survived() {
    freeze("a_database_that_was_silent_and_answers_late_is_survived", Proxy::thaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_silent_and_is_gone_is_survived() {
    let cut_and_thaw = |proxy: &Proxy| {
        proxy.cut();
        proxy.thaw();
    };
    freeze("a_database_that_was_silent_and_is_gone_is_survived", cut_and_thaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_for_a_while_does_no_harm() {
    let system = TestSystem::new("a_worker_that_was_stopped_for_a_while_does_no_harm").await;
    system.expect_repeats();
    let mut hasty = Url::parse(&amqp_url()).unwrap();
    hasty.query_pairs_mut().append_pair("heartbeat", "2");
    let sleeper = system.worker_with(&[("AMQP_URL", hasty.as_str())]);
    let season = Workload::seeded(8, 1000);
    season.open(&system).await;
    let (before, meanwhile) = season.commands.split_at(season.commands.len() / 2);
    system.get_under_way(before, 50).await;
    sleeper.pause().await;
    let other = system.worker();
    system.sender.send_all(meanwhile).await;
    // The broker gives what it holds to the other, which may then wait for its locks.
    let consumers = async || (system.consumers("orders").await, system.consumers("stock").await);
    wait_for("the broker takes the sleeper for dead", SOON, &(1, 1), consumers).await;
    sleeper.resume().await;
    season.assert_all_is_done(&system).await;
    system.close_after([sleeper, other]).await;
}
