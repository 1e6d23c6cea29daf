//! Failed commands are retried, become dead letters, and are retried, edited or discarded by operators.

mod archive;
mod attempts;
mod error_chain;
mod headers;

use serde_json::{Value, json};

use crate::harness::{
    CliOutput, Command, DRAINS_WITHIN, TestSystem, allocate, change_batch_quantity, create_batch, properties,
    wait_for,
};

/// A message is dead after one failed attempt.
const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RESOLVED: &str = "select count(*) from failed_messages where status = 'resolved'";

/// Waits for `count` dead letters and returns their ids.
async fn dead(system: &TestSystem, count: i64) -> Vec<String> {
    wait_for("messages are dead", DRAINS_WITHIN, &count, async || system.count(DEAD).await).await;
    sqlx::query_scalar("select id::text from failed_messages where status = 'dead' order by id")
        .fetch_all(&system.pool)
        .await
        .expect("the failed messages can be read")
}

/// Calls `allocation dead-letters … --json`.
async fn dead_letters(system: &TestSystem, arguments: &[&str]) -> CliOutput {
    system.cli(&[&["--json", "dead-letters"][..], arguments].concat()).await
}

/// The report of a bulk action that was applied to every message.
fn all_of(count: u32) -> Value {
    json!({ "matched": count, "done": count, "skipped": 0, "failed": 0 })
}

/// A dead letter that a retry would handle: its SKU was created later.
async fn dead_letter_with_its_cause_fixed(system: &TestSystem) -> (Command, String) {
    let line = allocate("o-1", "LAMP", 2);
    system.sender.send(&line).await;
    let id = dead(system, 1).await.remove(0);
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    (line, id)
}

/// Ten lines of unknown SKUs, eight changes of unknown batches, twelve invalid quantities, ten unknown types.
async fn forty_dead_letters_of_four_causes(system: &TestSystem) {
    let mut commands = Vec::new();
    for number in 1..=10 {
        commands.push(allocate(&format!("ghost-{number}"), &format!("GHOST-{number}"), 1));
    }
    for number in 1..=8 {
        commands.push(change_batch_quantity(&format!("no-batch-{number}"), 5));
    }
    for number in 1..=12 {
        commands.push(allocate(&format!("negative-{number}"), "LAMP", 1).with("qty", json!(-number)));
    }
    system.sender.send_all(&commands).await;
    for number in 1..=10 {
        let sent = properties("alocate", &format!("typing-error-{number}"));
        system.sender.publish_raw("allocate", sent, b"{}").await;
    }
    dead(system, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_one_group_leaves_other_groups_dead() {
    let system = TestSystem::new("a_retry_of_one_group_leaves_other_groups_dead").await;
    system.expect_dead(30);
    let worker = system.worker_with(ONE_ATTEMPT);
    forty_dead_letters_of_four_causes(&system).await;

    let answer = dead_letters(&system, &["groups"]).await.exits(0).json();
    let groups = answer.as_array().unwrap();
    let text = |group: &Value, field: &str| group[field].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = groups
        .iter()
        .map(|group| {
            (text(group, "type"), text(group, "reason"), group["count"].as_i64().unwrap_or_default())
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("allocate", "invalid_message", 12),
        ("allocate", "rejected", 10),
        ("alocate", "unknown_command", 10),
        ("change_batch_quantity", "rejected", 8),
    ];
    assert_eq!(found, expected.map(|(kind, reason, count)| (kind.to_owned(), reason.to_owned(), count)));

    let batches: Vec<_> =
        (1..=10).map(|number| create_batch(&format!("b-{number}"), &format!("GHOST-{number}"), 10)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(10).await;
    let ghosts = groups.iter().find(|group| group["type"] == "allocate" && group["reason"] == "rejected");
    let group = text(ghosts.unwrap(), "group");
    let retried = dead_letters(&system, &["retry", "--group", &group]).await.exits(0);
    assert_eq!(retried.json(), all_of(10));
    system.settled(20).await;
    assert_eq!((system.count(RESOLVED).await, system.count(DEAD).await), (10, 30));
    system.close_after([worker]).await;
}

/// Senders choose types and names of fields: these are no causes of their own.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_types_and_fields_of_any_name_are_one_group_each() {
    let system = TestSystem::new("unknown_types_and_fields_of_any_name_are_one_group_each").await;
    system.expect_dead(120);
    let worker = system.worker();
    let raw = |number: usize| {
        let unknown = properties(&format!("type-{number}"), &format!("unknown-{number}"));
        let field = format!("{{\"field-{}\": tru}}", "x".repeat(number));
        let invalid = properties("allocate", &format!("invalid-{number}"));
        [
            system.sender.raw("allocate", unknown, b"{}"),
            system.sender.raw("allocate", invalid, field.as_bytes()),
        ]
    };
    system.sender.publish_all(&(0..60).flat_map(raw).collect::<Vec<_>>()).await;
    dead(&system, 120).await;
    let groups = dead_letters(&system, &["groups"]).await.exits(0).json();
    let mut found: Vec<_> = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (group["type"].clone(), group["count"].clone()))
        .collect();
    found.sort_by_key(|(kind, _)| kind.to_string());
    assert_eq!(found, [(json!("allocate"), json!(60)), (json!("…"), json!(60))], "{groups}");
    assert_eq!(groups[0]["group"].as_str().unwrap().len(), 16, "64 bits");
    let shortened = system.cli(&["dead-letters", "groups", "--limit", "1"]).await.exits(0);
    assert!(shortened.stdout().contains("\nand 1 more: --limit 2\n"), "{}", shortened.stdout());
    let group = groups.as_array().unwrap().iter().find(|group| group["type"] == "…").unwrap();
    let discard = ["discard", "--group", group["group"].as_str().unwrap(), "--why", "spam"];
    assert_eq!(dead_letters(&system, &discard).await.exits(0).json(), all_of(60));
    system.expect_dead(60);
    let (_, log) = worker.stop_with("TERM").await;
    let lines = log.lines().filter(|line| line.contains("command dead-lettered"));
    assert_eq!(lines.count(), 4, "for each group one line and a count: {log}");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_retries_of_one_message_have_one_effect() {
    let system = TestSystem::new("two_concurrent_retries_of_one_message_have_one_effect").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    let (_, id) = dead_letter_with_its_cause_fixed(&system).await;
    // Without a worker the second retry finds the first one scheduled.
    assert!(worker.terminate().await.success());
    let retry = ["retry", &id];
    let (one, other) = tokio::join!(dead_letters(&system, &retry), dead_letters(&system, &retry));
    let mut reports =
        [one.json(), other.json()].map(|report| (report["done"].clone(), report["skipped"].clone()));
    reports.sort_unstable_by_key(|(done, _)| done.as_i64());
    assert_eq!(reports, [(json!(0), json!(1)), (json!(1), json!(0))]);
    assert_eq!(system.count("select count(*) from failed_actions").await, 1);

    let worker = system.worker_with(ONE_ATTEMPT);
    system.settled(2).await;
    assert_eq!(system.count("select count(*) from order_lines where qty = 2").await, 1);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_handled_message_is_skipped_and_resolves_it() {
    let system = TestSystem::new("a_retry_of_a_handled_message_is_skipped_and_resolves_it").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    let (line, id) = dead_letter_with_its_cause_fixed(&system).await;
    system.sender.send(&line).await;
    system.settled(2).await;
    // As a restore of an earlier version left it.
    sqlx::raw_sql("update failed_messages set status = 'dead', reason = 'rejected', ended_at = null")
        .execute(&system.pool)
        .await
        .unwrap();
    assert_eq!((system.count(DEAD).await, system.handled().await), (1, 2));

    let report = dead_letters(&system, &["retry", &id]).await.json();
    assert_eq!(report, json!({ "matched": 1, "done": 0, "skipped": 1, "failed": 0 }));
    assert_eq!((system.count(DEAD).await, system.count(RESOLVED).await), (0, 1));
    assert_eq!(system.count("select count(*) from failed_actions where what = 'retry'").await, 0);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handling_a_resent_command_resolves_its_dead_letter() {
    let system = TestSystem::new("handling_a_resent_command_resolves_its_dead_letter").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    let (line, id) = dead_letter_with_its_cause_fixed(&system).await;
    system.sender.send(&line).await;
    system.settled(2).await;
    let report = dead_letters(&system, &["retry", &id]).await.json();
    assert_eq!(report, json!({ "matched": 1, "done": 0, "skipped": 1, "failed": 0 }));
    system.settled(2).await;
    assert_eq!((system.count(DEAD).await, system.count(RESOLVED).await), (0, 1));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discarded_messages_can_be_restored() {
    let system = TestSystem::new("discarded_messages_can_be_restored").await;
    system.expect_dead(3);
    let worker = system.worker_with(ONE_ATTEMPT);
    for number in 1..=3 {
        system.sender.send(&allocate(&format!("o-{number}"), "NO-SUCH-SKU", 1)).await;
    }
    dead(&system, 3).await;

    dead_letters(&system, &["discard", "--all"]).await.exits(2);
    let discarded = dead_letters(&system, &["discard", "--all", "--why", "test data"]).await.exits(0);
    assert_eq!(discarded.json(), all_of(3));
    assert_eq!(dead_letters(&system, &["list"]).await.exits(0).json(), json!([]));
    let listed = dead_letters(&system, &["list", "--status", "discarded"]).await.exits(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let reasons = "select count(*) from failed_actions where what = 'discard' and why = 'test data'";
    assert_eq!(system.count(reasons).await, 3);

    let restored = dead_letters(&system, &["restore", "--all"]).await.exits(0);
    assert_eq!(restored.json(), all_of(3));
    assert_eq!(system.count(DEAD).await, 3);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_and_calls_without_a_selection_change_nothing() {
    let system = TestSystem::new("dry_runs_and_calls_without_a_selection_change_nothing").await;
    system.expect_dead(2);
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&allocate("o-1", "NO-SUCH-SKU", 1)).await;
    system.sender.send(&allocate("o-2", "NO-SUCH-SKU", 1)).await;
    dead(&system, 2).await;

    let report = dead_letters(&system, &["retry", "--all", "--dry-run"]).await.exits(0).json();
    assert_eq!((&report["matched"], &report["done"]), (&json!(2), &json!(0)));
    let report =
        dead_letters(&system, &["discard", "--all", "--why", "x", "--dry-run"]).await.exits(0).json();
    assert_eq!((&report["matched"], &report["done"]), (&json!(2), &json!(0)));
    dead_letters(&system, &["retry"]).await.exits(2);
    dead_letters(&system, &["retry", "--no-such-filter"]).await.exits(2);
    dead_letters(&system, &["retry", "999999"]).await.exits(1);
    dead_letters(&system, &["show", "999999"]).await.exits(1);

    assert_eq!(system.count(DEAD).await, 2);
    assert_eq!(system.count("select count(*) from failed_actions").await, 0);
    assert_eq!(system.count("select count(*) from failed_attempts").await, 2);
    system.close_after([worker]).await;
}

/// The sender's properties describe the old body, not the new one.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_can_change_type_and_message_id() {
    let system = TestSystem::new("an_edit_can_change_type_and_message_id").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    let sent = properties("alocate", "typing error").with_content_type("text/plain".into());
    let line = allocate("o-1", "LAMP", 5).body.to_string();
    system.sender.publish_raw("allocate", sent, line.as_bytes()).await;
    let id = dead(&system, 1).await.remove(0);

    let body = system.file("body.json", line.as_bytes());
    let edit = ["edit", &id, "--type", "allocate", "--message-id", "as meant", "--why", "a typing error"];
    dead_letters(&system, &[&edit[..], &["--body", body.to_str().unwrap()]].concat()).await.exits(0);
    system.settled(2).await;
    assert_eq!(system.count("select qty::bigint from order_lines").await, 5);
    assert_eq!(system.count("select count(*) from inbox where message_id = 'as meant'").await, 1);
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_replaces_a_body_and_keeps_the_old_one() {
    let system = TestSystem::new("an_edit_replaces_a_body_and_keeps_the_old_one").await;
    let worker = system.worker();
    let wrong = allocate("o-1", "LAMP", 5).with("qty", json!(-5));
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.sender.send(&wrong).await;
    let id = dead(&system, 1).await.remove(0);

    let still_wrong = system.file("still-wrong.json", br#"{"orderid": "o-1", "sku": "LAMP", "qty": 0}"#);
    let fixed = system.file("fixed.json", br#"{"orderid": "o-1", "sku": "LAMP", "qty": 5}"#);
    let edit = ["edit", id.as_str(), "--why", "a typing error", "--body"];
    dead_letters(&system, &[&edit[..], &[still_wrong.to_str().unwrap()]].concat()).await.exits(1);
    assert_eq!(system.count(DEAD).await, 1);
    dead_letters(&system, &[&edit[..], &[fixed.to_str().unwrap()]].concat()).await.exits(0);

    system.settled(2).await;
    assert_eq!(system.count("select qty::bigint from order_lines").await, 5);
    let (why, previous): (Option<String>, Option<Vec<u8>>) =
        sqlx::query_as("select why, previous_body from failed_actions where what = 'edit'")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert_eq!(why.as_deref(), Some("a typing error"));
    assert_eq!(previous, Some(wrong.body.to_string().into_bytes()));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_its_queue_does_not_allow_leaves_the_message_dead() {
    let system = TestSystem::new("an_edit_that_its_queue_does_not_allow_leaves_the_message_dead").await;
    system.expect_dead(1);
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&allocate("o-1", "NO-SUCH-SKU", 1)).await;
    let id = dead(&system, 1).await.remove(0);
    let batch = system.file("batch.json", br#"{"ref": "b-1", "sku": "LAMP", "qty": 1}"#);
    let large = allocate("o-1", "LAMP", 1).with("note", json!("x".repeat(300_000))).body.to_string();
    let large = system.file("large.json", large.as_bytes());
    for (kind, body) in [("create_batch", batch), ("allocate", large)] {
        let edit = ["edit", &id, "--type", kind, "--body", body.to_str().unwrap()];
        let output = dead_letters(&system, &edit).await.exits(1);
        assert_eq!(system.count(DEAD).await, 1, "{}", output.text());
    }
    assert_eq!(system.count("select count(*) from failed_actions").await, 0);
    system.close_after([worker]).await;
}
