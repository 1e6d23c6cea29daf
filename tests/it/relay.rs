//! The relay with faults of its process, the broker and the database: all committed events are published in order.

mod handover;
mod late_commits;

use std::time::{Duration, Instant};

use lapin::{
    options::{BasicAckOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};

use crate::harness::{
    Running, SOON, TestSystem, allocate, assert_gapless, create_batch, wait_for, wait_until,
};

/// The default of `relay.max_in_flight`.
const WINDOW: usize = 1000;

fn relay(system: &TestSystem) -> Running {
    system.start(&["run", "--only", "relay"], &[])
}

/// Inserts the next events of each SKU into the outbox.
async fn commit_events(system: &TestSystem, sequences: std::ops::RangeInclusive<i64>) {
    sqlx::query(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
         select 'allocated', 'SKU-' || sku, sequence,
                format('{\"orderid\":\"o%s\",\"sku\":\"SKU-%s\",\"qty\":1,\"batchref\":\"b\"}', sequence, sku), 'c', 'c'
         from generate_series($1, $2) as sequence, generate_series(1, 50) as sku order by sequence, sku",
    )
    .bind(sequences.start())
    .bind(sequences.end())
    .execute(&system.pool)
    .await
    .unwrap();
}

async fn pending(system: &TestSystem) -> i64 {
    system.count("select count(*) from outbox").await
}

/// Three relays publish 20,000 events while the leader is killed repeatedly. One transaction gets its ids before all others
/// and commits last.
#[tokio::test]
async fn relays_that_are_killed_in_turn_publish_all_events_in_order() {
    let system = TestSystem::new("relays_that_are_killed_in_turn_publish_all_events_in_order").await;
    let mut late = system.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
         select 'allocated', 'SKU-LATE', sequence, '{}', 'c', 'c' from generate_series(1, 10) as sequence",
    )
    .execute(&mut *late)
    .await
    .unwrap();
    commit_events(&system, 1..=400).await;
    let mut takeovers = Vec::new();
    let mut relays: Vec<_> = (0..3).map(|_| relay(&system)).collect();
    while pending(&system).await > 0 {
        wait_until("a relay is the leader", SOON, async || leader(&relays).is_some()).await;
        wait_until_fewer_pend(&system, pending(&system).await).await;
        let left = pending(&system).await;
        if left == 0 {
            break;
        }
        let leader = leader(&relays).unwrap();
        let killed_at = Instant::now();
        relays.remove(leader).kill().await;
        relays.push(relay(&system));
        wait_until_fewer_pend(&system, left).await;
        takeovers.push(killed_at.elapsed());
    }
    late.commit().await.unwrap();
    let events = system.events_of(20_010).await;
    let duplicates = assert_gapless(&events);
    takeovers.sort_unstable();
    let (median, worst) = (takeovers.get(takeovers.len() / 2), takeovers.last());
    println!(
        "{} kills, {duplicates} duplicates, takeover median {median:?}, worst {worst:?}",
        takeovers.len()
    );
    assert!(!takeovers.is_empty(), "no leader was killed while events were pending");
    wait_for("all events are removed", SOON, &0, async || pending(&system).await).await;
    system.close_after(relays).await;
}

async fn wait_until_fewer_pend(system: &TestSystem, before: i64) {
    let fewer = async || {
        let now = pending(system).await;
        now < before || now == 0
    };
    wait_until("events are published", SOON, fewer).await;
}

/// The running relay that became leader last.
fn leader(relays: &[Running]) -> Option<usize> {
    relays.iter().position(became_leader)
}

fn became_leader(relay: &Running) -> bool {
    relay.log().contains("relay became leader")
}

/// A leader is paused, replaced, and continued. Events that it still publishes do not change the order.
#[tokio::test]
async fn an_unresponsive_leader_is_replaced_and_cannot_write_afterwards() {
    let system = TestSystem::new("an_unresponsive_leader_is_replaced_and_cannot_write_afterwards").await;
    let paused = relay(&system);
    wait_until("the relay is the leader", SOON, async || became_leader(&paused)).await;
    let standby = relay(&system);
    commit_events(&system, 1..=100).await;
    wait_until("events are published", SOON, async || pending(&system).await < 5000).await;
    paused.pause().await;
    let left = pending(&system).await;
    commit_events(&system, 101..=200).await;
    wait_until("the standby is the leader", SOON, async || became_leader(&standby)).await;
    paused.resume().await;
    wait_for("all events are published", SOON, &0, async || pending(&system).await).await;
    let lost = async || paused.log().contains("relay lost leadership");
    wait_until("the old leader has noticed the loss", SOON, lost).await;
    let duplicates = assert_gapless(&system.events_of(10_000).await);
    println!("{left} events were unpublished at the pause; {duplicates} duplicates");
    assert!(duplicates <= WINDOW, "{duplicates} duplicates: more than the events in flight at the pause");
    system.close_after([paused, standby]).await;
}

/// A header that is larger than a frame closes the whole connection.
#[tokio::test]
async fn an_event_that_the_broker_rejects_is_parked_and_blocks_only_its_own_sku() {
    let system =
        TestSystem::new("an_event_that_the_broker_rejects_is_parked_and_blocks_only_its_own_sku").await;
    commit_events(&system, 1..=10).await;
    sqlx::query("update outbox set traceparent = repeat('x', 200000) where sku = 'SKU-7' and sequence = 4")
        .execute(&system.pool)
        .await
        .unwrap();
    let relay = relay(&system);
    wait_for("all but one SKU is published", Duration::from_secs(20), &7, async || pending(&system).await)
        .await;
    let listed = system.cli(&["outbox", "list", "--json"]).await.exits(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((listed[0]["sequence"].as_i64(), listed[0]["behind"].as_i64()), (Some(4), Some(6)));
    let id = listed[0]["id"].to_string();
    assert!(listed[0]["refused"].as_str().is_some_and(|why| !why.is_empty()));
    let status = system.cli(&["status", "--json"]).await.exits(0).json();
    assert_eq!(status["outbox"]["set_aside"], 1);
    sqlx::query("update outbox set traceparent = null where refused is not null")
        .execute(&system.pool)
        .await
        .unwrap();
    system.cli(&["outbox", "retry", &id]).await.exits(0);
    wait_for("the remaining events are published", Duration::from_secs(10), &0, async || {
        pending(&system).await
    })
    .await;
    assert_gapless(&system.events_of(500).await);
    system.close_after([relay]).await;
}

/// The queue of a subscriber is full several times.
#[tokio::test]
async fn a_full_queue_receives_its_events_later_and_in_order() {
    let system = TestSystem::new("a_full_queue_receives_its_events_later_and_in_order").await;
    let full = system.named("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(100));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = system.channel();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(full.as_str().into(), durable, arguments).await.unwrap();
    channel
        .queue_bind(
            full.as_str().into(),
            system.named("events").as_str().into(),
            "allocated".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let relay = relay(&system);
    commit_events(&system, 1..=20).await;
    let mut arrived = Vec::new();
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_mins(1), "{} arrived", arrived.len());
        let published = pending(&system).await == 0;
        match channel.basic_get(full.as_str().into(), BasicGetOptions::default()).await.unwrap() {
            Some(message) => {
                message.ack(BasicAckOptions::default()).await.unwrap();
                let headers = message.delivery.properties.headers().clone().unwrap_or_default();
                arrived.push((headers.inner()["aggregate_id"].clone(), headers.inner()["sequence"].clone()));
            }
            None if published => break,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    // A subscriber that accepts only the next sequence misses nothing.
    let mut next = std::collections::HashMap::new();
    for (sku, sequence) in &arrived {
        let AMQPValue::LongLongInt(sequence) = sequence else { panic!("{sequence:?}") };
        let expected = next.entry(format!("{sku:?}")).or_insert(1);
        if sequence == expected {
            *expected += 1;
        }
    }
    assert!(next.values().all(|next| *next == 21), "{next:?}");
    println!("{} copies of 1000 events arrived", arrived.len());
    channel.queue_purge(full.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    channel.queue_delete(full.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    system.close_after([relay]).await;
}

/// The most frequent query of the relay reads its rows by an index, and no others. The counters of the server measure the
/// query of the program itself. They count visible rows: the number of dead index entries would depend on the transactions
/// of all databases.
#[tokio::test]
async fn unpublished_events_are_read_from_the_index() {
    const EVENTS: i64 = 20_000;
    const REMOVED: &str = "select n_tup_del from pg_stat_user_tables where relname = 'outbox'";
    const SCANNED: &str = "select seq_tup_read from pg_stat_user_tables where relname = 'outbox'";
    const FETCHED: &str = "select idx_tup_fetch from pg_stat_user_tables where relname = 'outbox'";
    let system = TestSystem::new("unpublished_events_are_read_from_the_index").await;
    commit_events(&system, 1..=EVENTS / 50).await;
    let relay = relay(&system);
    wait_for("the server has counted all events", SOON, &EVENTS, async || system.count(REMOVED).await).await;
    assert_eq!(system.count(SCANNED).await, 0);
    // Each is read once and removed once; polls fetch a few more.
    let fetched = system.count(FETCHED).await;
    assert!((2 * EVENTS..3 * EVENTS).contains(&fetched), "{fetched} rows were fetched for {EVENTS} events");
    assert_gapless(&system.events_of(20_000).await);
    system.close_after([relay]).await;
}

#[tokio::test]
async fn unroutable_events_are_counted_and_are_no_error() {
    let system = TestSystem::new("unroutable_events_are_counted_and_are_no_error").await;
    system.stop_observing().await;
    let worker = system.worker();
    system.sender.send(&create_batch("b", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send_all(&[allocate("o1", "LAMP", 1), allocate("o2", "LAMP", 1)]).await;
    system.wait_handled(3).await;
    wait_for("the events are published", Duration::from_secs(10), &2, async || {
        system.cli(&["status", "--json"]).await.json()["outbox"]["unroutable"].as_i64().unwrap_or_default()
    })
    .await;
    system.close_after([worker]).await;
}

/// More expired rows than one purge removes, and some that are not expired.
#[tokio::test]
async fn expired_rows_are_removed_in_several_purges() {
    let system = TestSystem::new("expired_rows_are_removed_in_several_purges").await;
    sqlx::raw_sql(
        "insert into inbox (queue, message_id, fingerprint, handled_at)
         select 'orders', i, '', now() - case when i <= 12000 then interval '8 days' else interval '6 days' end
         from generate_series(1, 12010) as i;
         insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status, reason,
             error, error_pattern, error_group, attempts, ended_at)
         select 'orders', status || age, '', 'allocate', '', '{}', '', status, 'rejected', '', '', '', 1,
                now() - age * interval '1 day'
         from unnest(array['resolved', 'discarded']) as status, unnest(array[6, 8]) as age",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    let relay = relay(&system);
    wait_for("the expired rows are removed", Duration::from_secs(20), &(10, 2), async || {
        let failures = system.count("select count(*) from failed_messages").await;
        (system.count("select count(*) from inbox").await, failures)
    })
    .await;
    system.close_after([relay]).await;
}

/// A retry whose copy was lost with its queue is published again if it was not handled within an hour.
#[tokio::test]
async fn a_retry_that_was_lost_with_its_queue_is_published_again() {
    let system = TestSystem::new("a_retry_that_was_lost_with_its_queue_is_published_again").await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__INITIAL_INTERVAL", "100ms")]);
    system.sender.send(&create_batch("b", "LAMP", 10)).await;
    system.wait_handled(1).await;
    sqlx::raw_sql(
        "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status,
             error, error_pattern, error_group, attempts, due_at, published_at)
         values ('orders', 'lost', '', 'allocate', '{\"orderid\": \"o1\", \"sku\": \"LAMP\", \"qty\": 1}', '{}', '',
             'retrying', '', '', '', 1, now() - interval '2 hours', now() - interval '2 hours')",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    worker.terminate().await;
    let worker = system.worker();
    system.wait_handled(2).await;
    assert_eq!(system.count("select count(*) from order_lines where orderid = 'o1'").await, 1);
    sqlx::raw_sql("delete from failed_messages").execute(&system.pool).await.unwrap();
    system.close_after([worker]).await;
}

/// The queue of one subscriber stays full while 200 events are published.
#[tokio::test]
async fn a_full_queue_causes_few_duplicates_for_other_subscribers() {
    let system = TestSystem::new("a_full_queue_causes_few_duplicates_for_other_subscribers").await;
    let full = system.named("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = system.channel();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(full.as_str().into(), durable, arguments).await.unwrap();
    let (events, bind) = (system.named("events"), QueueBindOptions::default());
    channel
        .queue_bind(full.as_str().into(), events.as_str().into(), "#".into(), bind, FieldTable::default())
        .await
        .unwrap();
    commit_events(&system, 1..=4).await;
    let begin = Instant::now();
    let relay = relay(&system);
    system.events_of(200).await;
    // The pauses double: half a second, one, two, four. In five seconds there are four tries, of one event each.
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(begin.elapsed())).await; // the duration of the fault
    let copies = system.events_of(200).await.len();
    assert!(copies <= 200 + 8, "{copies} copies of 200 events");
    let nacked = async || system.cli(&["status", "--json"]).await.json()["outbox"]["nacked_events"].clone();
    assert_eq!(nacked().await, serde_json::json!(["allocated"]));
    channel.queue_delete(full.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    wait_for("all events are published", Duration::from_secs(30), &0, async || pending(&system).await).await;
    wait_for("status reports no full queue", Duration::from_secs(30), &serde_json::json!([]), nacked).await;
    system.close_after([relay]).await;
}

/// An administrator truncates the outbox, and its ids start again, below those that the leader has read.
#[tokio::test]
async fn events_are_published_after_an_administrator_truncated_the_outbox() {
    let system = TestSystem::new("events_are_published_after_an_administrator_truncated_the_outbox").await;
    commit_events(&system, 1..=20).await;
    let relay = relay(&system);
    wait_for("all events are published", Duration::from_secs(30), &0, async || pending(&system).await).await;
    commit_events(&system, 21..=40).await; // raises the low-water mark
    wait_for("all events are published", Duration::from_secs(30), &0, async || pending(&system).await).await;
    sqlx::raw_sql("truncate outbox restart identity").execute(&system.pool).await.unwrap();
    commit_events(&system, 41..=41).await;
    wait_for("the later events are published", Duration::from_secs(10), &0, async || pending(&system).await)
        .await;
    system.close_after([relay]).await;
}
