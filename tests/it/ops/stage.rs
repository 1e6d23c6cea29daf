//! A system whose servers and processes can be taken away, beside a Prometheus with the rules.

use std::{collections::BTreeSet, fs::File, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    harness::{
        Client, DRAINS_WITHIN, MailServer, Proxy, Running, TestSystem, amqp_url, create_batch, free_address,
        wait_for, wait_until,
    },
    prometheus::{INTERVAL, Prometheus},
};

/// The deadline for alerts to fire and to clear: more than the longest range and the longest `for`, on a busy machine.
const ALERTS_WITHIN: Duration = Duration::from_mins(1);
/// How long exactly the expected alerts fire: as long as nearly every condition needs to be noticed.
const LASTS: Duration = Duration::from_secs(6);

/// The stock of the SKU `LAMP`.
pub(super) const STOCK: u32 = 100;

/// Waits until no other test has a stage: together they would use more connections than a database has by default.
pub(super) async fn alone() -> File {
    let lock = || {
        let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/alerts.yaml"))?;
        file.lock().map(|()| file)
    };
    tokio::task::spawn_blocking(lock).await.unwrap().expect("the file can be locked")
}

/// A process that may run.
struct Slot {
    roles: &'static str,
    metrics: SocketAddr,
    process: Option<Running>,
}

/// The roles of the processes.
pub(super) const RELAY: &str = "relay,api";
pub(super) const WORKER: &str = "worker,notifier";
pub(super) const ARCHIVE: &str = "archive";

pub(super) struct Stage {
    pub(super) system: TestSystem,
    pub(super) database: Proxy,
    pub(super) broker: Proxy,
    pub(super) mail: Proxy,
    pub(super) api: Client,
    _mail_server: MailServer,
    settings: Vec<(&'static str, &'static str)>,
    prometheus: Prometheus,
    slots: Vec<Slot>,
}

impl Stage {
    /// Starts everything, and waits until it is healthy and no alert fires.
    pub(super) async fn new(name: &str, settings: &[(&'static str, &'static str)]) -> Self {
        let system = TestSystem::new(name).await;
        system.expect_redeliveries();
        let mail_server = MailServer::start().await;
        let mut slots = Vec::new();
        for roles in [RELAY, WORKER, ARCHIVE] {
            slots.push(Slot { roles, metrics: free_address().await, process: None });
        }
        let targets: Vec<_> = slots.iter().map(|slot| slot.metrics).collect();
        let mut stage = Self {
            database: Proxy::to(&system.database_url(), 5432).await,
            broker: Proxy::to(&amqp_url(), 5672).await,
            mail: Proxy::to(&format!("smtp://{}", mail_server.address), 25).await,
            api: Client::of(free_address().await),
            _mail_server: mail_server,
            settings: settings.to_vec(),
            prometheus: Prometheus::start(&targets).await,
            slots,
            system,
        };
        for roles in [RELAY, WORKER, ARCHIVE] {
            stage.start(roles);
        }
        stage.system.sender.send(&create_batch("b-1", "LAMP", STOCK)).await;
        stage.system.wait_handled(1).await;
        stage.is_healthy().await;
        stage
    }

    /// Starts the process with these roles.
    pub(super) fn start(&mut self, roles: &str) {
        let slot = self.slots.iter_mut().find(|slot| slot.roles == roles).expect("it is one of the roles");
        let (metrics, api) = (slot.metrics.to_string(), self.api.address().to_string());
        let own = [
            ("DATABASE_URL", self.database.url()),
            ("AMQP_URL", self.broker.url()),
            ("ALLOCATION__SMTP__URL", self.mail.url()),
            ("ALLOCATION__API__LISTEN", &api),
            ("ALLOCATION__METRICS__LISTEN", &metrics),
            ("ALLOCATION__METRICS__INTERVAL", INTERVAL),
        ];
        let environment = [&own, self.settings.as_slice()].concat();
        slot.process = Some(self.system.start(&["run", "--only", slot.roles], &environment));
    }

    /// Takes the process with these roles out of its place.
    pub(super) fn take(&mut self, roles: &str) -> Running {
        let slot = self.slots.iter_mut().find(|slot| slot.roles == roles).expect("it is one of the roles");
        slot.process.take().expect("the process runs")
    }

    /// Stops the process with these roles.
    pub(super) async fn stop(&mut self, roles: &str) {
        self.take(roles).terminate().await;
    }

    /// Kills the process with these roles, and starts it again.
    pub(super) async fn restart(&mut self, roles: &str) {
        self.take(roles).kill().await;
        self.start(roles);
    }

    /// The series of a query.
    pub(super) async fn query(&self, expression: &str) -> Vec<(Value, String)> {
        self.prometheus.query(expression).await
    }

    /// The process with these roles.
    pub(super) fn process(&self, roles: &str) -> &Running {
        let slot = self.slots.iter().find(|slot| slot.roles == roles);
        slot.and_then(|slot| slot.process.as_ref()).expect("the process runs")
    }

    /// Waits until every process reports, there is a leader, and its numbers are known.
    async fn is_healthy(&self) {
        let healthy = [
            "count(allocation_build_info) == 3",
            "sum(allocation_relay_leader) == 1",
            "count(allocation_queue_consumers > 0) == 6",
            "sum(allocation_outbox_pending) == 0",
        ];
        for expression in healthy {
            let holds = async || !self.prometheus.query(expression).await.is_empty();
            wait_until(expression, ALERTS_WITHIN, holds).await;
        }
        self.clears().await;
    }

    /// Waits until exactly these alerts fire and this has lasted, and fails if another one fires meanwhile.
    pub(super) async fn fires(&self, expected: &[&str]) {
        self.lasts(expected, &[], true).await;
    }

    /// The same after a fault that has raised other alerts for a short time. `later` ones are pending or not.
    pub(super) async fn settles(&self, expected: &[&str], later: &[&str]) {
        self.lasts(expected, later, false).await;
    }

    async fn lasts(&self, expected: &[&str], later: &[&str], strictly: bool) {
        let [expected, later] = [expected, later]
            .map(|alerts| alerts.iter().map(|alert| (*alert).to_owned()).collect::<BTreeSet<_>>());
        let begin = Instant::now();
        let mut since = None;
        loop {
            let [firing, pending] = self.alerts().await;
            let states = format!("{firing:?} fire and {pending:?} are pending, expected: {expected:?}");
            assert!(!strictly || firing.is_subset(&expected), "{states}");
            assert!(begin.elapsed() < ALERTS_WITHIN, "{states}\n{}", self.prometheus.log());
            let exact = firing == expected && pending.is_subset(&later);
            since = exact.then(|| since.unwrap_or_else(Instant::now));
            if since.is_some_and(|since| since.elapsed() > LASTS) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The alerts that fire, and those that are pending.
    async fn alerts(&self) -> [BTreeSet<String>; 2] {
        [self.prometheus.alerts("firing").await, self.prometheus.alerts("pending").await]
    }

    /// Waits until no alert fires and none is pending.
    pub(super) async fn clears(&self) {
        wait_for("no alert is left", ALERTS_WITHIN, &[BTreeSet::new(), BTreeSet::new()], async || {
            self.alerts().await
        })
        .await;
    }

    /// Waits for this number of dead letters, and discards them.
    pub(super) async fn discard(&self, dead_letters: i64) {
        let dead = "select count(*) from failed_messages where status = 'dead'";
        let found = async || self.system.count(dead).await;
        wait_for("all dead letters are recorded", DRAINS_WITHIN, &dead_letters, found).await;
        self.system.cli(&["dead-letters", "discard", "--all", "--why", "the test is over"]).await.exits(0);
    }

    /// Waits until this number of commands is handled, the system is healthy and no alert fires, and closes.
    pub(super) async fn ends(mut self, handled: usize) {
        self.system.wait_drained(handled).await;
        self.is_healthy().await;
        let processes: Vec<_> = self.slots.iter_mut().filter_map(|slot| slot.process.take()).collect();
        self.system.close_after(processes).await;
    }
}
