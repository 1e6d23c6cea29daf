//! The progress of a system, and the consistency of its tables and events.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use lapin::{
    options::{BasicGetOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};

use crate::consistency;

use super::{
    TestSystem,
    broker::{Event, assert_gapless, distinct},
    commands::Command,
    wait::{DRAINS_WITHIN, wait_for, wait_until},
};

/// The deadline for the arrival of confirmed events.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// Counts that show the progress.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    handled: i64,
    unpublished: i64,
    retrying: i64,
    ready: u32,
}

impl TestSystem {
    /// The number of handled commands.
    pub(crate) async fn handled(&self) -> i64 {
        self.count("select count(*) from inbox where queue in ('orders', 'stock')").await
    }

    /// Waits for this number of handled commands.
    pub(crate) async fn wait_handled(&self, count: usize) {
        let count = number(count);
        wait_for("commands are handled", DRAINS_WITHIN, &count, async || self.handled().await).await;
    }

    /// Sends commands, and waits until `more` commands are handled. The others may still be in progress.
    pub(crate) async fn send_and_wait_for(&self, commands: &[Command], more: i64) {
        let enough = self.handled().await + more;
        self.sender.send_all(commands).await;
        wait_until("commands are handled", DRAINS_WITHIN, async || self.handled().await >= enough).await;
    }

    /// Waits until this number of commands is handled, no event is unpublished, no message is retrying, and the queues of
    /// commands are empty.
    pub(crate) async fn wait_drained(&self, handled: usize) {
        let drained = Progress { handled: number(handled), unpublished: 0, retrying: 0, ready: 0 };
        wait_for("all commands are handled", DRAINS_WITHIN, &drained, async || self.progress().await).await;
    }

    async fn progress(&self) -> Progress {
        Progress {
            handled: self.handled().await,
            unpublished: self.count("select count(*) from outbox").await,
            retrying: self.count("select count(*) from failed_messages where status = 'retrying'").await,
            ready: self.ready("orders").await + self.ready("stock").await,
        }
    }

    /// The number of ready messages in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        self.state_of(queue).await.message_count()
    }

    /// The number of consumers of a queue.
    pub(crate) async fn consumers(&self, queue: &str) -> u32 {
        self.state_of(queue).await.consumer_count()
    }

    async fn state_of(&self, queue: &str) -> lapin::Queue {
        let passive = QueueDeclareOptions::durable().passive();
        let name = self.named(queue);
        let state = self.channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        state.expect("the queue exists")
    }

    /// The number of sessions of the database that wait for a lock.
    pub(crate) async fn waiting_for_locks(&self) -> i64 {
        self.count(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .await
    }

    /// Waits until this number of commands is handled and every event has arrived, and asserts that tables and events are
    /// consistent. Returns the events in the order of their arrival.
    pub(crate) async fn settled(&self, handled: usize) -> Vec<Event> {
        self.wait_drained(handled).await;
        let recorded = self.count("select coalesce(sum(event_sequence), 0)::bigint from products").await;
        let arrived = async || number(distinct(&self.observer.events()));
        wait_for("events arrive", ARRIVES_WITHIN, &recorded, arrived).await;
        let events = self.observer.events();
        assert_gapless(&events);
        assert_eq!(
            last_sequences(&events),
            self.recorded_sequences().await,
            "an event is missing, or was never committed"
        );
        self.assert_consistent().await;
        events
    }

    async fn recorded_sequences(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select sku, event_sequence from products where event_sequence > 0")
                .fetch_all(&self.pool)
                .await
                .expect("the products can be read");
        rows.into_iter().collect()
    }

    /// Asserts the rules that the tables always satisfy.
    pub(crate) async fn assert_consistent(&self) {
        for (rule, violations) in consistency::RULES {
            let found: Vec<String> = sqlx::query_scalar(violations)
                .fetch_all(&self.pool)
                .await
                .expect("the query of the rule succeeds");
            assert!(found.is_empty(), "violated: {rule}: {found:?}");
        }
    }

    /// Asserts that a queue is empty. If the test allows redeliveries, handled messages may remain.
    pub(super) async fn assert_queue_finished(&self, queue: &str) {
        if !self.redeliveries_may_remain.load(Ordering::Relaxed) {
            assert_eq!(self.ready(queue).await, 0, "{queue} is not empty");
        }
        let name: ShortString = self.named(queue).into();
        let take = BasicGetOptions { no_ack: true };
        while let Some(left) = self.channel.basic_get(name.clone(), take).await.expect("the queue exists") {
            let message_id = left.properties.message_id().as_ref().map(ToString::to_string);
            let known: bool = sqlx::query_scalar(
                "select exists (select from inbox where queue = $1 and message_id = $2)
                     or exists (select from failed_messages where queue = $1 and message_id = $2)",
            )
            .bind(queue)
            .bind(message_id.as_deref())
            .fetch_one(&self.pool)
            .await
            .expect("the inbox can be read");
            assert!(known, "{message_id:?} is left in {queue} and was not handled");
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).expect("a count is small")
}

fn last_sequences(events: &[Event]) -> BTreeMap<String, i64> {
    let mut last = BTreeMap::new();
    for event in events {
        let last = last.entry(event.aggregate_id()).or_default();
        *last = event.sequence().max(*last);
    }
    last
}
