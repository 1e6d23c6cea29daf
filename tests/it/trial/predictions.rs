//! What a trial reports equals what a retry then does, for each command and each reason.

use allocation::{
    domain::{OperatorAction, Reason},
    service::{
        outcome::CommandOutcome,
        trial::{TrialOptions, TrialReport, Verdict},
    },
};
use serde_json::{Value, json};

use crate::harness::{Command, allocate, change_batch_quantity, create_batch, deallocate};

use super::world::{MAIL_TO, Places, World};

const CRASHING: TrialOptions = TrialOptions { even_overtaken: false, even_if_it_crashes: true };

/// A command of each kind with each effect.
fn commands() -> Vec<Command> {
    vec![
        allocate("new", "LAMP", 2),
        allocate("new", "VASE", 7),
        allocate("old", "LAMP", 3),
        allocate("old", "LAMP", 4),
        allocate("new", "UNKNOWN", 1),
        deallocate("old", "LAMP"),
        deallocate("rug-a", "RUG"),
        deallocate("large", "VASE"),
        deallocate("none", "VASE"),
        deallocate("none", "UNKNOWN"),
        create_batch("lamp-2", "LAMP", 8),
        create_batch("rug-2", "RUG", 3),
        create_batch("new-1", "NEW", 0),
        create_batch("lamp-1", "LAMP", 20),
        create_batch("lamp-1", "VASE", 20),
        change_batch_quantity("vase-1", 100),
        change_batch_quantity("lamp-1", 2),
        change_batch_quantity("rug-1", 0),
        change_batch_quantity("rug-1", 5),
        change_batch_quantity("unknown", 5),
    ]
}

fn reasons() -> impl Iterator<Item = Reason> {
    Reason::ALL.iter().copied().filter(|reason| *reason != Reason::Discarded)
}

/// Asserts that a report says what a retry did.
fn assert_predicted(name: &str, report: &TrialReport, outcome: Option<&CommandOutcome>) {
    let expected = match outcome {
        Some(CommandOutcome::Handled) => (Verdict::Succeed, None),
        Some(CommandOutcome::Duplicate) | None => (Verdict::Repeat, None),
        Some(CommandOutcome::Recorded(_, record)) => {
            let status = allocation::domain::Status::from(record.decision);
            let reason = status.reason().map(Reason::as_str);
            (Verdict::Fail, Some(reason.unwrap_or(status.kind().as_str())))
        }
        Some(other) => panic!("{name}: {other:?}"),
    };
    assert_eq!((report.would, report.next), expected, "{name}: {report:?}");
}

/// The lines that differ, as a report shows them.
fn line_changes(before: &Places, after: &Places) -> Vec<Value> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let change = |name: &String| {
        let (orderid, sku) = name.split_once(' ').unwrap();
        let (from, to) = (before.get(name), after.get(name));
        let qty = &from.or(to).unwrap()["qty"];
        let place = |line: Option<&Value>| line.map_or(Value::Null, |line| line["place"].clone());
        json!({ "orderid": orderid, "sku": sku, "qty": qty, "from": place(from), "to": place(to) })
    };
    changed.map(change).collect()
}

fn batch_changes(before: &Places, after: &Places) -> Vec<Value> {
    let changed = after.iter().filter(|(name, quantities)| before.get(*name) != Some(quantities));
    let change = |(name, now): (&String, &Value)| {
        let zero = json!([0, 0]);
        let then = before.get(name).unwrap_or(&zero);
        json!({ "batchref": name, "allocated": [then[0], now[0]], "purchased": [then[1], now[1]] })
    };
    changed.map(change).collect()
}

fn sorted(values: &Value) -> Vec<Value> {
    let mut values = values.as_array().unwrap().clone();
    values.sort_by_key(Value::to_string);
    values
}

/// Tries a dead letter, retries it, and compares.
async fn compare(world: &World, name: &str, id: i64) -> TrialReport {
    let reports = world.tried(&[id], CRASHING).await;
    assert_eq!(reports.len(), 1, "{name}");
    let shown = serde_json::to_value(&reports[0]).unwrap();
    let (lines, batches) = (world.lines().await, world.batches().await);
    let outcomes = world.retried(&[id], OperatorAction::Retry).await;
    assert_predicted(name, &reports[0], outcomes.get(&id));
    let lines = line_changes(&lines, &world.lines().await);
    assert_eq!(sorted(&shown["lines"]), sorted(&json!(lines)), "{name}");
    let batches = batch_changes(&batches, &world.batches().await);
    assert_eq!(sorted(&shown["batches"]), sorted(&json!(batches)), "{name}");
    assert_eq!(shown["events"], json!(world.events().await), "{name}");
    reports.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_trial_of_each_command_predicts_its_retry() {
    let world = World::new().await;
    let mut verdicts = Vec::new();
    for command in commands() {
        let id = world.dead_command(&command, "attempts_exhausted").await;
        verdicts.push(compare(&world, &command.message_id, id).await.would);
        world.reset().await;
    }
    assert_eq!(verdicts.iter().filter(|would| **would == Verdict::Fail).count(), 5);
    assert_eq!(verdicts.iter().filter(|would| **would == Verdict::Succeed).count(), 15);
}

#[tokio::test]
async fn a_trial_predicts_the_retry_of_each_command_that_is_dead_for_each_reason() {
    let world = World::new().await;
    for reason in reasons() {
        for command in [
            allocate("new", "LAMP", 2),
            deallocate("rug-a", "RUG"),
            create_batch("rug-2", "RUG", 3),
            change_batch_quantity("lamp-1", 2),
        ] {
            let id = world.dead_command(&command, reason.as_str()).await;
            let name = format!("{} {}", reason.as_str(), command.message_id);
            assert_eq!(compare(&world, &name, id).await.would, Verdict::Succeed);
            world.reset().await;
        }
    }
}

#[tokio::test]
async fn a_trial_predicts_the_retry_of_a_message_that_fails_again_for_its_reason() {
    let world = World::new().await;
    let large = format!(r#"{{"orderid": "o", "sku": "LAMP", "qty": 1, "note": "{}"}}"#, "x".repeat(300_000));
    let messages: [(&str, &str, &[u8], &str); 5] = [
        ("orders", "allocate", br#"{"orderid": "o", "sku": "LAMP", "qty": 0}"#, "invalid_message"),
        ("orders", "reserve", b"{}", "unknown_command"),
        ("orders", "create_batch", br#"{"ref": "b", "sku": "LAMP", "qty": 1}"#, "unknown_command"),
        ("orders", "allocate", large.as_bytes(), "too_large"),
        ("notifications", "out_of_stock", b"{", "invalid_message"),
    ];
    for (queue, kind, body, reason) in messages {
        let id = world.dead(queue, kind, body, reason).await;
        assert_eq!(compare(&world, reason, id).await.next, Some(reason));
    }
    let id = world.dead_command(&allocate("o", "LAMP", 1), "missing_message_id").await;
    world.db.execute(&format!("update failed_messages set message_id = null where id = {id}")).await;
    assert_eq!(compare(&world, "no message id", id).await.next, Some("missing_message_id"));
    let id = world.dead_command(&allocate("o", "LAMP", 1).with_id("same"), "message_id_conflict").await;
    world.db.execute(&format!("update failed_messages set message_id = 'same' where id = {id}")).await;
    world.handle(&allocate("other", "LAMP", 1).with_id("same")).await;
    world.db.execute("delete from outbox").await;
    assert_eq!(compare(&world, "same id", id).await.next, Some("message_id_conflict"));
}

#[tokio::test]
async fn a_trial_of_a_message_that_was_handled_meanwhile_says_so() {
    let world = World::new().await;
    let id = world.dead_command(&allocate("o", "LAMP", 1), "rejected").await;
    let handled = "insert into inbox (queue, message_id, type, fingerprint)
                   select queue, message_id, type, fingerprint from failed_messages";
    world.db.execute(handled).await;
    assert_eq!(compare(&world, "handled", id).await.error.as_deref(), Some("already handled"));
}

#[tokio::test]
async fn a_trial_of_a_notification_shows_its_mail_and_sends_none() {
    let world = World::new().await;
    let body = br#"{"orderid": "o", "sku": "LAMP", "qty": 2}"#;
    let id = world.dead("notifications", "out_of_stock", body, "rejected").await;
    let report = compare(&world, "a notification", id).await;
    let mail = report.mail.unwrap();
    assert_eq!((mail.to.as_str(), mail.subject.as_str()), (MAIL_TO, "Out of stock for LAMP"));
    assert!(report.caveats[0].contains("was not sent"), "{:?}", report.caveats);
}
