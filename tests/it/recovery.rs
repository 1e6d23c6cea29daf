//! Faults of the servers and of the connections to them: a worker recovers without a restart, and no command is lost, handled
//! twice or counted as failed.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use url::Url;

use crate::harness::{
    Command, DRAINS_WITHIN, Proxy, Running, SOON, TestSystem, Workload, allocate, amqp_url, create_batch,
    wait_for, wait_until,
};

/// The deadline for the detection of a server that is available again.
const DETECTED_WITHIN: Duration = Duration::from_secs(10);
/// The number of failed connection attempts after which an outage ends.
const FAILED_CONNECTIONS: usize = 10;

/// The server with the fault.
#[derive(Clone, Copy)]
enum Server {
    Broker,
    Database,
}

/// A worker that reaches one of its servers through a proxy, and a workload.
struct FaultSetup {
    system: TestSystem,
    proxy: Proxy,
    worker: Running,
    workload: Workload,
}

impl FaultSetup {
    async fn new(name: &str, fault: Server, environment: &[(&str, &str)]) -> Self {
        let system = TestSystem::new(name).await;
        system.expect_redeliveries();
        let (variable, url, port) = match fault {
            Server::Broker => ("AMQP_URL", amqp_url(), 5672),
            Server::Database => ("DATABASE_URL", system.database_url(), 5432),
        };
        let proxy = Proxy::to(&url, port).await;
        let worker = system.worker_with(&[environment, &[(variable, proxy.url())]].concat());
        let workload = Workload::seeded(7, 1500);
        workload.create_batches(&system).await;
        Self { system, proxy, worker, workload }
    }

    fn halves(&self) -> (&[Command], &[Command]) {
        self.workload.commands.split_at(self.workload.commands.len() / 2)
    }

    /// Waits until the worker has logged the outage, and then has tried this number of connections.
    async fn wait_for_outage(&self, server: &str, connections: usize) {
        let noticed = async || self.worker.log().contains(&format!("{server} unavailable"));
        wait_until("the outage is logged", SOON, noticed).await;
        let enough = self.proxy.connection_attempts() + connections;
        wait_until("the worker tries to connect", SOON, async || self.proxy.connection_attempts() >= enough)
            .await;
    }

    /// Asserts that the worker has handled all commands without a restart and without a failed attempt.
    async fn finish(mut self) {
        self.workload.assert_all_handled(&self.system).await;
        assert!(self.worker.is_alive());
        assert_eq!(self.system.count("select count(*) from failed_messages").await, 0);
        self.system.close_after([self.worker]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_continues_after_its_queue_was_deleted() {
    let system = TestSystem::new("a_worker_continues_after_its_queue_was_deleted").await;
    let mut worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    system.wait_drained(2).await;

    let deleted = system.channel().queue_delete(system.named("orders").into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    // RabbitMQ does not cancel the consumers of a queue that is declared again within milliseconds.
    wait_until("the worker notices it", SOON, async || worker.log().contains("WARN")).await;
    system.cli(&["topology"]).await.exits(0);
    system.sender.send(&allocate("o-2", "LAMP", 1)).await;
    let handled = async || system.handled().await;
    wait_for("commands are handled again", SOON, &3, handled).await;
    system.settled(3).await;
    assert!(worker.is_alive());
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_connections_to_the_broker_lose_no_command() {
    let setup = FaultSetup::new("reset_connections_to_the_broker_lose_no_command", Server::Broker, &[]).await;
    for part in setup.workload.parts(4) {
        setup.system.send_and_wait_for(part, 50).await;
        setup.proxy.cut();
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_broker_connections_do_not_count_as_attempts() {
    let setup =
        FaultSetup::new("refused_broker_connections_do_not_count_as_attempts", Server::Broker, &[]).await;
    let (before, meanwhile) = setup.halves();
    setup.system.send_and_wait_for(before, 50).await;
    setup.proxy.refuse(true);
    setup.proxy.cut();
    setup.system.sender.send_all(meanwhile).await;
    setup.wait_for_outage("broker", FAILED_CONNECTIONS / 2).await;
    setup.proxy.refuse(false);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_connections_to_the_database_lose_no_command() {
    let setup =
        FaultSetup::new("reset_connections_to_the_database_lose_no_command", Server::Database, &[]).await;
    for part in setup.workload.parts(4) {
        setup.system.send_and_wait_for(part, 50).await;
        setup.proxy.cut();
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_database_connections_do_not_count_as_attempts() {
    let name = "refused_database_connections_do_not_count_as_attempts";
    let setup = FaultSetup::new(name, Server::Database, &[]).await;
    let (before, meanwhile) = setup.halves();
    setup.system.send_and_wait_for(before, 50).await;
    setup.proxy.refuse(true);
    setup.proxy.cut();
    setup.system.sender.send_all(meanwhile).await;
    setup.wait_for_outage("database", FAILED_CONNECTIONS).await;

    let handled = setup.system.handled().await;
    setup.proxy.refuse(false);
    let continues = async || setup.system.handled().await > handled;
    wait_until("commands are handled again", DETECTED_WITHIN, continues).await;
    setup.finish().await;
}

/// Freezes the connections to the database during a workload, until `end` ends the fault.
async fn freeze(name: &str, end: impl FnOnce(&Proxy)) {
    let short_timeout = [("ALLOCATION__DATABASE__TIMEOUT", "2s")];
    let setup = FaultSetup::new(name, Server::Database, &short_timeout).await;
    let (before, meanwhile) = setup.halves();
    setup.system.send_and_wait_for(before, 50).await;
    setup.proxy.freeze();
    setup.system.sender.send_all(meanwhile).await;
    // Each of these connection attempts ends with the timeout.
    setup.wait_for_outage("database", 6).await;
    end(&setup.proxy);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_that_replies_late_loses_no_command() {
    freeze("a_frozen_database_that_replies_late_loses_no_command", Proxy::thaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_that_never_replies_loses_no_command() {
    let cut_and_thaw = |proxy: &Proxy| {
        proxy.cut();
        proxy.thaw();
    };
    freeze("a_frozen_database_that_never_replies_loses_no_command", cut_and_thaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_worker_that_continues_handles_nothing_twice() {
    let system = TestSystem::new("a_paused_worker_that_continues_handles_nothing_twice").await;
    system.expect_redeliveries();
    let mut url = Url::parse(&amqp_url()).unwrap();
    url.query_pairs_mut().append_pair("heartbeat", "2");
    let paused = system.worker_with(&[("AMQP_URL", url.as_str())]);
    let workload = Workload::seeded(8, 1000);
    workload.create_batches(&system).await;
    let (before, meanwhile) = workload.commands.split_at(workload.commands.len() / 2);
    system.send_and_wait_for(before, 50).await;
    paused.pause().await;
    let other = system.worker();
    system.sender.send_all(meanwhile).await;
    // The broker redelivers its messages to the other worker, which may wait for the locks of the paused one.
    let consumers = async || (system.consumers("orders").await, system.consumers("stock").await);
    wait_for("the broker closes the connection of the paused worker", SOON, &(1, 1), consumers).await;
    paused.resume().await;
    workload.assert_all_handled(&system).await;
    system.close_after([paused, other]).await;
}

/// A delivery is blocked in one partition, and deliveries behind it are handled in another one. They cannot be acknowledged
/// before it, so the broker delivers them again.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_behind_a_blocked_one_have_one_effect_after_a_kill() {
    let system = TestSystem::new("deliveries_behind_a_blocked_one_have_one_effect_after_a_kill").await;
    system.expect_redeliveries();
    let worker = system.worker();
    let skus = ["LAMP", "VASE", "STOOL", "CHAIR"];
    system.sender.send_all(&skus.map(|sku| create_batch(&format!("b-{sku}"), sku, 1000))).await;
    system.wait_handled(4).await;
    worker.terminate().await;
    let mut locker = system.pool.begin().await.unwrap();
    sqlx::query("select from products where sku = 'LAMP' for update").execute(&mut *locker).await.unwrap();
    let mut commands = vec![allocate("blocked", "LAMP", 1)];
    for number in 0..120 {
        commands.push(allocate(&format!("o-{number}"), skus[1 + number % 3], 1));
    }
    system.sender.send_all(&commands).await;
    let worker = system.worker();
    // At least one of the other three SKUs is in another partition than the blocked one.
    let some = async || system.count("select count(*) from order_lines").await >= 40;
    wait_until("the other partition continues", DRAINS_WITHIN, some).await;
    worker.kill().await;
    locker.rollback().await.unwrap();
    let worker = system.worker();
    system.settled(4 + commands.len()).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 121);
    system.close_after([worker]).await;
}
