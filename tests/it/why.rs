//! `why`: each reason is staged for real, and it is the first one that is found.

use lapin::options::QueueDeleteOptions;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{
    DRAINS_WITHIN, Running, SOON, TestSystem, allocate, change_batch_quantity, create_batch, wait_for,
    wait_until,
};

type Environment<'a> = &'a [(&'a str, &'a str)];

/// What `why` says about a queue, and its exit status.
async fn why(system: &TestSystem, queue: &str, environment: Environment<'_>) -> (Value, bool) {
    let output = system.cli_with(&["--json", "why", queue], environment).await;
    let diagnosis = output.json();
    let is_well = output.code == 0;
    assert!(is_well || output.code == 1, "{diagnosis}");
    (diagnosis, is_well)
}

fn codes(diagnosis: &Value) -> Vec<String> {
    let reasons = diagnosis["reasons"].as_array().expect("there is a list of reasons");
    reasons.iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the first reason is this one, and returns all reasons.
async fn wait_for_reason(
    system: &TestSystem,
    queue: &str,
    code: &str,
    environment: Environment<'_>,
) -> Vec<String> {
    let last = std::cell::RefCell::new(Vec::new());
    let first = async || {
        let found = codes(&why(system, queue, environment).await.0);
        last.replace(found.clone());
        found.first().cloned().unwrap_or_default()
    };
    wait_for("the reason is found", DRAINS_WITHIN, &code.to_owned(), first).await;
    last.into_inner()
}

/// A process that has handled the batch `b-1` of the SKU LAMP.
async fn with_batch(system: &TestSystem, environment: Environment<'_>) -> Running {
    let worker = system.worker_with(environment);
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_drained(1).await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_process_has_no_worker_and_then_it_moves() {
    let system = TestSystem::new("a_queue_without_process_has_no_worker_and_then_it_moves").await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    let ready = async || why(&system, "stock", &[]).await.0["ready"].clone();
    wait_for("the message is ready", SOON, &Value::from(1), ready).await;
    let (diagnosis, _) = why(&system, "stock", &[]).await;
    assert_eq!(codes(&diagnosis), ["no_worker", "relay_missing"], "{diagnosis}");
    assert_eq!(diagnosis["moving"], false);
    let worker = system.worker();
    system.wait_drained(1).await;
    let moving = async || why(&system, "stock", &[]).await.0["moving"] == true;
    wait_until("it moves", DRAINS_WITHIN, moving).await;
    let full_name = system.named("stock");
    let text = system.cli(&["why", &full_name]).await.exits(0).text();
    assert!(text.contains("moving: ") && text.contains("RULED OUT  database_away, "), "{text}");
    system.cli(&["why", "nothing"]).await.exits(2).assert_error("there is no queue");
    system.cli(&["why"]).await.exits(2);
    worker.kill().await;
    let later = "update processes set seen_at = seen_at - interval '15 seconds' where stopped_at is null";
    system.execute(later).await;
    let reasons = wait_for_reason(&system, "stock", "no_worker", &[]).await;
    assert!(!reasons.contains(&"unexplained".to_owned()), "{reasons:?}");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_the_first_reason_and_what_it_knows_is_not_known() {
    let system =
        TestSystem::new("a_server_that_is_away_is_the_first_reason_and_what_it_knows_is_not_known").await;
    let worker = with_batch(&system, &[]).await;
    let away = ("DATABASE_URL", "postgres://unknown@127.0.0.1:1/x");
    let (diagnosis, is_well) = why(&system, "orders", &[away]).await;
    assert_eq!(codes(&diagnosis), ["database_away"], "{diagnosis}");
    assert!(!is_well && diagnosis["moving"].is_null(), "{diagnosis}");
    let not_known: Vec<_> =
        diagnosis["not_known"].as_array().unwrap().iter().map(|reason| &reason["code"]).collect();
    assert!(not_known.contains(&&Value::from("lock_wait")), "{diagnosis}");
    let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", system.database_url());
    wait_for_reason(&system, "orders", "database_away", &[("DATABASE_URL", &read_only)]).await;
    let away = [("AMQP_URL", "amqp://127.0.0.1:1")];
    let reasons = wait_for_reason(&system, "orders", "broker_away", &away).await;
    assert!(!reasons.contains(&"idle".to_owned()), "nothing is known about the queue: {reasons:?}");
    system.execute("update _sqlx_migrations set version = 1000 + version where version = 1").await;
    wait_for_reason(&system, "orders", "schema_differs", &[]).await;
    system.execute("update _sqlx_migrations set version = 1 where version = 1001").await;
    wait_for_reason(&system, "orders", "idle", &[]).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_and_full_storage_are_found_in_the_reports_of_processes() {
    let system =
        TestSystem::new("a_missing_queue_and_full_storage_are_found_in_the_reports_of_processes").await;
    let worker = with_batch(&system, &[("ALLOCATION__LIMITS__FAILED_MESSAGES", "2 MB")]).await;
    system
        .channel()
        .queue_delete(system.named("orders").into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let reasons = wait_for_reason(&system, "orders", "queue_missing", &[]).await;
    assert!(!reasons.contains(&"broker_away".to_owned()), "{reasons:?}");
    system.cli(&["topology"]).await.exits(0);
    wait_for_reason(&system, "orders", "idle", &[]).await;
    system.insert_dead_letters(10_000).await;
    wait_for_reason(&system, "orders", "storage_full", &[]).await;
    system.execute("truncate failed_messages, failed_attempts, failed_actions").await;
    system.expect_dead(0);
    let consumed = async || why(&system, "orders", &[]).await.1;
    wait_until("the queue is consumed again", DRAINS_WITHIN, consumed).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_session_is_found_with_its_session() {
    let system = TestSystem::new("a_lock_of_another_session_is_found_with_its_session").await;
    let worker = with_batch(&system, &[]).await;
    let mut session = PgConnection::connect(&system.database_url()).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    sqlx::raw_sql("begin; select from products for update").execute(&mut session).await.unwrap();
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    let reasons = wait_for_reason(&system, "orders", "lock_wait", &[]).await;
    assert!(!reasons.contains(&"database_away".to_owned()), "{reasons:?}");
    let text = system.cli(&["why", "orders"]).await.text();
    assert!(text.contains(&format!("session {pid} (application \"\", ")), "{text}");
    assert!(text.contains(&format!("pg_terminate_backend({pid})")), "{text}");
    // A role that may only read does not see the session.
    let reader = system.url_with_grants("", "grant select on all tables in schema public to ROLE").await;
    let reader = [("DATABASE_URL", reader.as_str())];
    wait_for_reason(&system, "orders", "lock_wait", &reader).await;
    let (diagnosis, _) = why(&system, "orders", &reader).await;
    assert!(!diagnosis.to_string().contains("pg_terminate_backend"), "{diagnosis}");
    sqlx::raw_sql("commit").execute(&mut session).await.unwrap();
    system.wait_drained(2).await;
    let gone = async || !codes(&why(&system, "orders", &[]).await.0).contains(&"lock_wait".to_owned());
    wait_until("the lock is no reason any more", DRAINS_WITHIN, gone).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_progress_is_found() {
    let system = TestSystem::new("a_handler_without_progress_is_found").await;
    let worker = with_batch(&system, &[("ALLOCATION__DATABASE__TIMEOUT", "1m")]).await;
    let gate = "create table gate (closed boolean); insert into gate values (true); grant all on gate to public;
                create function wait_for_gate() returns trigger language plpgsql as $$ begin
                    while exists (select from gate) loop perform pg_sleep(0.1); end loop; return new;
                end $$;
                create trigger gate before insert on order_lines for each row execute function wait_for_gate()";
    system.execute(gate).await;
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    // Sixty handler timeouts are two seconds here.
    let short = [("ALLOCATION__WORKER__HANDLER_TIMEOUT", "33ms")];
    wait_for_reason(&system, "orders", "stuck_handler", &short).await;
    system.execute("delete from gate").await;
    system.wait_drained(2).await;
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_is_found() {
    let system = TestSystem::new("what_cannot_be_published_is_found").await;
    let worker = with_batch(&system, &[]).await;
    system.insert_dead_letters(2).await;
    system
        .execute(
            "update failed_messages set status = 'retrying', reason = null, due_at = now() + interval '1 hour',
                 held_because = case id % 2 when 0 then 'nacked' end;
             insert into outbox (name, sku, sequence, body, causation_id, correlation_id, refused, refused_at)
                 values ('allocated', 'VASE', 1, '{}', 'm', 'm', 'access refused', now());
             insert into message_starts (queue, message_id, starts, started_at) values ('orders', 'm-9', 3, now())",
        )
        .await;
    system.expect_dead(0);
    let (diagnosis, _) = why(&system, "orders", &[]).await;
    let expected = ["breaking_message", "event_refused", "retries_held", "retries_waiting"];
    assert_eq!(&codes(&diagnosis)[..4], expected, "{diagnosis}");
    worker.terminate().await;
    wait_for_reason(&system, "orders", "no_worker", &[]).await;
    let (diagnosis, _) = why(&system, "orders", &[]).await;
    assert!(codes(&diagnosis).contains(&"relay_missing".to_owned()), "{diagnosis}");
    system.execute("delete from outbox; delete from failed_messages; delete from message_starts").await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_is_found_for_notifications_only() {
    let system = TestSystem::new("a_mail_server_that_is_away_is_found_for_notifications_only").await;
    let environment =
        [("ALLOCATION__SMTP__URL", "smtp://127.0.0.1:1"), ("ALLOCATION__NOTIFICATIONS__DIGEST", "0s")];
    let process = system.start(&["run", "--only", "worker,relay,notifier"], &environment);
    system.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    wait_for_reason(&system, "notifications", "mail_away", &[]).await;
    let (diagnosis, is_well) = why(&system, "orders", &[]).await;
    assert!(is_well && !codes(&diagnosis).contains(&"mail_away".to_owned()), "{diagnosis}");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_explained_by_stock_and_by_failed_commands() {
    let system = TestSystem::new("an_order_is_explained_by_stock_and_by_failed_commands").await;
    let worker = with_batch(&system, &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]).await;
    let order = async |orderid: &'static str, code: i32| {
        system.cli(&["why", "order", orderid]).await.exits(code).text()
    };
    let text = order("o-1", 1).await;
    assert!(text.contains("order o-1: unknown"), "{text}");
    system.sender.send_all(&[allocate("o-1", "LAMP", 3), allocate("o-2", "LAMP", 20)]).await;
    system.wait_handled(3).await;
    system.sender.send(&allocate("o-3", "LAMP", 30)).await;
    system.wait_drained(4).await;
    assert!(order("o-1", 0).await.contains("LAMP x3: allocated in b-1"));
    let text = order("o-3", 1).await;
    let evidence = "LAMP x30: backordered: no batch has 30 free, the largest free quantity is 7; \
                    at least 1 backorders of the SKU are older";
    assert!(text.contains(evidence), "{text}");
    system.sender.send(&allocate("o-4", "VASE", 1)).await;
    let failed = async || order("o-4", 1).await.contains("allocate is dead (rejected): ");
    wait_until("its command is dead", DRAINS_WITHIN, failed).await;
    system.expect_dead(1);
    system.sender.send(&change_batch_quantity("b-1", 33)).await;
    system.wait_drained(5).await;
    assert!(order("o-2", 0).await.contains("LAMP x20: allocated in b-1"));
    system.close_after([worker]).await;
}
