//! `trace`: the history of a message or of an order, and what is not known about it.

use std::time::Duration;

use allocation::views::{KeptFor, Views};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, postgres::PgPoolOptions};

use crate::harness::{
    CliOutput, DRAINS_WITHIN, Database, NAMESPACE, Running, TestSystem, allocate, create_batch, deallocate,
    wait_for, wait_until,
};

const ONE_ATTEMPT: (&str, &str) = ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1");
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const UNPUBLISHED: &str = "select count(*) from outbox";
const DAY: Duration = Duration::from_hours(24);
const KEPT: KeptFor = KeptFor { inbox: DAY, published: DAY };

async fn with_worker(name: &str) -> (TestSystem, Running) {
    let system = TestSystem::new(name).await;
    let worker = system.worker_with(&[ONE_ATTEMPT]);
    (system, worker)
}

async fn dead(system: &TestSystem, count: i64) {
    wait_for("the command is dead", DRAINS_WITHIN, &count, async || system.count(DEAD).await).await;
}

async fn trace(system: &TestSystem, arguments: &[&str]) -> CliOutput {
    system.cli(&[&["trace", "--json"], arguments].concat()).await
}

/// The kinds of the steps, in their order.
fn kinds(history: &Value) -> Vec<&str> {
    history["steps"].as_array().unwrap().iter().map(|step| step["what"].as_str().unwrap()).collect()
}

fn texts(history: &Value) -> String {
    let steps = history["steps"].as_array().unwrap();
    steps.iter().map(|step| step["text"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_message_that_was_handled_at_once_has_its_events_and_their_publication() {
    let name = "the_history_of_a_message_that_was_handled_at_once_has_its_events_and_their_publication";
    let (system, worker) = with_worker(name).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 2).with_id("first")).await;
    system.settled(2).await;
    wait_for("it is published", DRAINS_WITHIN, &0, async || system.count(UNPUBLISHED).await).await;
    let history = trace(&system, &["first"]).await.exits(0).json();
    assert_eq!(kinds(&history), ["handled", "event", "published"]);
    assert_eq!(history["stands"], "handled");
    assert_eq!(history["queues"], serde_json::json!([system.named("orders")]));
    assert_eq!(history["steps"][1]["text"], "allocated, number 1 of LAMP: o-1 ×2 in b-1");
    assert_eq!(history["steps"][2]["outcome"], "confirmed");
    assert!(history["not_known"][0].as_str().unwrap().starts_with("when it was sent"), "{history}");
    let shown = system.cli(&["trace", "first"]).await.exits(0);
    assert!(
        shown.stdout().contains("it stands: handled; o-1 / LAMP is allocated in b-1"),
        "{}",
        shown.stdout()
    );
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_failed_message_has_its_attempts_and_actions() {
    let (system, worker) = with_worker("the_history_of_a_failed_message_has_its_attempts_and_actions").await;
    system.sender.send(&allocate("o-1", "LAMP", 2).with_id("retried")).await;
    dead(&system, 1).await;
    let history = trace(&system, &["retried"]).await.exits(0).json();
    assert_eq!((kinds(&history), history["stands"].as_str()), (vec!["failed", "dead"], Some("dead")));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&history["steps"][0]["attempt"], history["steps"][0]["version"].as_str()),
        (&1.into(), Some(version))
    );
    assert!(texts(&history).contains(&format!("({version}): Invalid sku LAMP")), "{history}");
    assert!(texts(&history).contains("rejected, group "), "{history}");
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.cli(&["dead-letters", "retry", "1", "--why", "b-1 was late"]).await.exits(0);
    system.settled(2).await;
    let history = trace(&system, &["--failed", "1"]).await.exits(0).json();
    assert_eq!(kinds(&history)[..2], ["failed", "retry"]);
    assert_eq!(
        (history["stands"].as_str(), history["message_id"].as_str()),
        (Some("handled"), Some("retried"))
    );
    assert!(texts(&history).contains(": b-1 was late"), "{history}");
    for kind in ["handled", "event", "published"] {
        assert!(kinds(&history).contains(&kind), "{history}");
    }
    trace(&system, &["--failed", "99"]).await.exits(1).assert_error("there is no failed message 99");
    trace(&system, &["retried", "--queue", "stock"]).await.exits(1);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_an_edited_and_of_a_discarded_message_has_the_actions() {
    let (system, worker) =
        with_worker("the_history_of_an_edited_and_of_a_discarded_message_has_the_actions").await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LMAP", 2).with_id("edited")).await;
    system.sender.send(&allocate("o-2", "LMAP", 2).with_id("discarded")).await;
    dead(&system, 2).await;
    let id = system.count("select id from failed_messages where message_id = 'edited'").await.to_string();
    let body = system.file("body.json", br#"{"orderid": "o-1", "sku": "LAMP", "qty": 2}"#);
    system.cli(&["dead-letters", "edit", &id, "--body", body.to_str().unwrap()]).await.exits(0);
    system.cli(&["dead-letters", "discard", "--all", "--why", "not needed"]).await.exits(0);
    system.settled(2).await;
    let edited = trace(&system, &["edited"]).await.exits(0).json();
    assert_eq!(
        (kinds(&edited)[..2].to_vec(), edited["stands"].as_str()),
        (vec!["failed", "edit"], Some("handled"))
    );
    let discarded = trace(&system, &["discarded"]).await.exits(0).json();
    assert_eq!(
        (kinds(&discarded), discarded["stands"].as_str()),
        (vec!["failed", "discard"], Some("discarded"))
    );
    let order = trace(&system, &["--order", "o-2"]).await.exits(0).json();
    assert_eq!(kinds(&order), ["failed", "discard"]);
    assert!(order["not_known"].to_string().contains("by their message ids only"), "{order}");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_known_about_an_unknown_message_and_an_unknown_order() {
    let system = TestSystem::new("nothing_is_known_about_an_unknown_message_and_an_unknown_order").await;
    for arguments in [&["unknown"][..], &["--order", "unknown"]] {
        let history = trace(&system, arguments).await.exits(1).json();
        assert_eq!((kinds(&history).len(), history["stands"].as_str()), (0, Some("unknown")));
        assert!(history["not_known"].to_string().contains("retention.inbox"), "{history}");
    }
    trace(&system, &[]).await.exits(2);
    trace(&system, &["m", "--failed", "1"]).await.exits(2);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublished_and_parked_events_are_in_the_history() {
    let system = TestSystem::new("unpublished_and_parked_events_are_in_the_history").await;
    let worker = system.start(&["run", "--only", "worker"], &[]);
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 2).with_id("first")).await;
    system.wait_handled(2).await;
    let history = trace(&system, &["first"]).await.exits(0).json();
    assert_eq!(kinds(&history), ["handled", "event"]);
    assert!(texts(&history).contains("in b-1; not published yet"), "{history}");
    system.execute("update outbox set refused = 'too large', refused_at = now()").await;
    let history = trace(&system, &["first"]).await.exits(0).json();
    assert_eq!(kinds(&history), ["handled", "event", "parked"]);
    assert!(texts(&history).contains("the broker rejected it: too large"), "{history}");
    system.execute("update outbox set refused = null, refused_at = null").await;
    let relay = system.start(&["run", "--only", "relay"], &[("ALLOCATION__RETENTION__PUBLISHED", "0s")]);
    wait_for("it is published", DRAINS_WITHIN, &0, async || system.count(UNPUBLISHED).await).await;
    assert_eq!(system.count("select count(*) from published_events").await, 0, "it is off");
    let environment = [("ALLOCATION__RETENTION__PUBLISHED", "0s")];
    let history = system.cli_with(&["trace", "--json", "first"], &environment).await.exits(0).json();
    assert!(history["not_known"].to_string().contains("they are not recorded"), "{history}");
    system.close_after([worker, relay]).await;
}

/// A command that waits behind another one, and one that overtakes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_commands_is_in_the_history() {
    let system = TestSystem::new("the_order_of_commands_is_in_the_history").await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__INITIAL_INTERVAL", "1h")]);
    system.sender.send(&allocate("o/1", "LAMP", 2).with_id("first")).await;
    let retrying = "select count(*) from failed_messages where status = 'retrying'";
    wait_for("it failed", DRAINS_WITHIN, &1, async || system.count(retrying).await).await;
    system.sender.send(&deallocate("o/1", "LAMP").with_id("second")).await;
    let waiting = "select count(*) from failed_messages where status = 'waiting'";
    wait_for("it waits", DRAINS_WITHIN, &1, async || system.count(waiting).await).await;
    let first = trace(&system, &["first"]).await.exits(0).json();
    assert_eq!((kinds(&first), first["stands"].as_str()), (vec!["failed", "due"], Some("retrying")));
    let second = trace(&system, &["second"]).await.exits(0).json();
    assert_eq!((kinds(&second), second["stands"].as_str()), (vec!["waiting"], Some("waiting")));
    let order = trace(&system, &["--order", "o/1"]).await.exits(0).json();
    assert_eq!(kinds(&order).len(), 3, "{order}");
    system.cli(&["dead-letters", "discard", "1", "2", "--why", "the test ends"]).await.exits(0);
    system.close_after([worker]).await;
}

/// Each table has 100,000 rows. The session that makes them has ended: then the server has counted what it did.
async fn large_tables() -> Database {
    let db = Database::new().await;
    let mut session = PgConnection::connect(&db.url()).await.unwrap();
    sqlx::raw_sql(
        "insert into inbox (queue, message_id, fingerprint, handled_at)
             select 'orders', 'm-' || n, '', now() - n * interval '1 ms' from generate_series(1, 100000) n;
         insert into published_events (event_id, name, sku, sequence, body, causation_id, correlation_id, committed_at, unroutable)
             select gen_random_uuid(), 'allocated', 'LAMP', n, '{}', 'm-' || n, 'c', now() - n * interval '1 ms', false
             from generate_series(1, 100000) n;
         insert into outbox (name, sku, sequence, body, causation_id, correlation_id, committed_at)
             select 'allocated', 'LAMP', n, '{\"orderid\": \"o-' || n || '\", \"sku\": \"LAMP\"}', 'm-' || n, 'c',
                    now() - n * interval '1 ms' from generate_series(1, 100000) n;
         insert into allocations_view (orderid, sku, qty, batchref)
             select 'o-' || n, 'LAMP', 1, 'b' from generate_series(1, 100000) n;
         insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status, reason,
                 error, error_pattern, error_group, attempts, key)
             select 'orders', 'f-' || n, '', 'allocate', '', '{}', '', 'dead', 'rejected', '', '', '', 1, 'line:o-' || n || '/LAMP'
             from generate_series(1, 100000) n;
         insert into failed_attempts (failed_message_id, generation, attempt, host, duration_ms, error, chain)
             select id, 1, 1, 'h', 1, 'e', '{}' from failed_messages;
         insert into failed_actions (failed_message_id, who, what) select id, 'w', 'retry' from failed_messages",
    )
    .execute(&mut session)
    .await
    .unwrap();
    for table in [
        "inbox",
        "published_events",
        "outbox",
        "allocations_view",
        "failed_messages",
        "failed_attempts",
        "failed_actions",
    ] {
        sqlx::raw_sql(&format!("vacuum analyze {table}")).execute(&mut session).await.unwrap();
    }
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    session.close().await.unwrap();
    let is_open = format!("select count(*) from pg_stat_activity where pid = {pid}");
    wait_until("the session ends", DRAINS_WITHIN, async || db.count(&is_open).await == 0).await;
    db
}

/// The times are those of the transactions, so the published events of other messages are not read.
#[tokio::test]
async fn the_queries_of_a_history_use_indexes_on_large_tables() {
    let db = large_tables().await;
    let scanned = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
                   where relname in ('inbox', 'published_events', 'outbox', 'allocations_view', 'failed_messages',
                                     'failed_attempts', 'failed_actions')";
    let pool = PgPoolOptions::new().max_connections(1).connect(&db.url()).await.unwrap();
    let views = Views::new(pool.clone(), NAMESPACE.to_owned(), Duration::from_secs(10));
    db.execute("select pg_stat_reset()").await;
    let fetched = "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where relname = 'published_events'";
    // A prepared statement has a generic plan from the sixth execution on.
    for n in 1..=12 {
        let message = views.message_history(&format!("m-{n}"), None, KEPT).await.unwrap();
        assert_eq!(message.steps.len(), 4, "{message:?}");
        let failed = views.message_history(&format!("f-{n}"), None, KEPT).await.unwrap();
        assert_eq!(failed.steps.len(), 3, "{failed:?}");
        let order = views.order_history(&format!("o-{n}"), KEPT).await.unwrap();
        assert_eq!((order.steps.len(), order.lines.len()), (3, 1), "{order:?}");
    }
    sqlx::query("select pg_stat_force_next_flush()").execute(&pool).await.unwrap();
    wait_until("the server has counted", DRAINS_WITHIN, async || db.count(fetched).await >= 12).await;
    assert_eq!(db.count(scanned).await, 0);
}
