//! The end of an outage is noticed by a process that has no reason to use the server again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use allocation::{
    ports::{
        admin::{DeclareResult, QueueDepth, Topology},
        error::BrokerError,
    },
    service::{activity::Activity, availability::AvailabilityLog, outage_end::OutageEnd},
};
use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fakes::{ScriptedStore, bus};

/// A broker that answers or does not.
#[derive(Default)]
struct Broker(AtomicBool);

fn lost() -> BrokerError {
    BrokerError::Unavailable("it does not answer".into())
}

#[async_trait]
impl Topology for Broker {
    async fn declare(&self) -> Result<Vec<DeclareResult>, BrokerError> {
        Err(lost())
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>, BrokerError> {
        if self.0.load(Ordering::Relaxed) { Ok(Vec::new()) } else { Err(lost()) }
    }
}

struct Outages {
    database: Arc<AvailabilityLog>,
    broker: Arc<AvailabilityLog>,
    mail: Arc<AvailabilityLog>,
    answers: Arc<Broker>,
    relay: Activity,
    stop: CancellationToken,
}

/// All servers were found unavailable, and the broker still is.
fn outages() -> Outages {
    let log = |name| Arc::new(AvailabilityLog::of(name));
    let (database, broker, mail) = (log("database"), log("broker"), log("mail server"));
    for log in [&database, &broker, &mail] {
        log.down(&lost());
    }
    let (answers, handler, stop) =
        (Arc::<Broker>::default(), Arc::new(bus(&ScriptedStore::default())), CancellationToken::new());
    let relay = Activity::default();
    let end = OutageEnd {
        database: database.clone(),
        broker: broker.clone(),
        mail: mail.clone(),
        commands: handler.clone(),
        notifications: handler,
        topology: answers.clone(),
        relay: relay.clone(),
    };
    let stopping = stop.clone();
    tokio::spawn(async move { end.run(&stopping).await });
    Outages { database, broker, mail, answers, relay, stop }
}

#[tokio::test(start_paused = true)]
async fn servers_that_answer_again_are_available_although_nothing_uses_them() {
    let outages = outages();
    sleep(Duration::from_secs(59)).await;
    assert!(outages.database.is_down() && outages.mail.is_down());
    sleep(Duration::from_secs(7)).await;
    assert!(!outages.database.is_down() && !outages.mail.is_down());
    assert!(outages.broker.is_down(), "it does not answer");
    outages.answers.0.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(6)).await;
    assert!(!outages.broker.is_down());
    outages.stop.cancel();
}

/// What uses the server knows better: it may answer a probe and refuse all work.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_still_reported_stays_unavailable() {
    let outages = outages();
    for _ in 0..10 {
        sleep(Duration::from_secs(30)).await;
        outages.database.down(&lost());
    }
    assert!(outages.database.is_down());
    outages.stop.cancel();
}

/// A broker that blocks publishing answers probes.
#[tokio::test(start_paused = true)]
async fn a_broker_that_a_relay_waits_for_stays_unavailable() {
    let outages = outages();
    outages.answers.0.store(true, Ordering::Relaxed);
    outages.relay.begin();
    sleep(Duration::from_mins(2)).await;
    assert!(outages.broker.is_down());
    outages.relay.end();
    sleep(Duration::from_secs(6)).await;
    assert!(!outages.broker.is_down());
    outages.stop.cancel();
}
