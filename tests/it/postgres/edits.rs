//! Edits of dead messages, alone and concurrent with other operators and with copies of the message.

use std::sync::Arc;

use allocation::{
    adapters::postgres::PgFailedMessages,
    domain::{BodyHash, Edit, NewAttempt, OperatorAction, Reason, RetryDecision, SkipReason},
    ports::{
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _},
        queue::RetryMark,
        store::{ChangeSet, RetryCheck},
    },
};
use serde_json::json;

use crate::harness::Database;

use super::{RETRYING, STATUSES, failed_message_key, failure, message_key, operator};

const NOT_DEAD: ActionResult = ActionResult::Skipped(SkipReason::NotDead);
const CHANGED: ActionResult = ActionResult::Skipped(SkipReason::ChangedSinceShown);

/// An edit of type, id and body.
fn edit(shown_generation: i64) -> Edit {
    Edit {
        shown_generation,
        kind: "deallocate".into(),
        message_id: "m1-edited".into(),
        body: b"two".into(),
        body_hash: BodyHash([2; 16]),
        ordering_key: None,
        even_overtaken: false,
    }
}

async fn apply(failed_messages: Arc<PgFailedMessages>, id: i64, edit: Edit) -> ActionResult {
    let (edit, all) = (OperatorAction::Edit(edit), FailedMessageFilter::default());
    let results = failed_messages.apply(&edit, &[id], &all, &operator()).await.unwrap();
    assert_eq!((results.len(), results[0].0), (1, id));
    results[0].1
}

#[tokio::test]
async fn an_edit_replaces_the_content_and_schedules_a_retry() {
    let db = Database::new().await;
    let columns = "published_at = now() - interval '1 hour', held_because = 'no queue'";
    let (id, other) = (db.failed("m1", columns).await, db.failed("m2", "").await);
    let before = (db.row(id).await, db.row(other).await);
    assert_eq!(apply(db.failed_messages(), id, edit(4)).await, ActionResult::Applied);
    let expected = json!({
        "type": "deallocate", "message_id": "m1-edited", "body": "\\x74776f", "edited": true,
        "fingerprint": format!("\\x{}", "02".repeat(16)), "status": "retrying", "reason": null, "attempts": 0,
        "generation": 5, "due_at": "now", "published_at": null
    });
    assert_eq!(db.row(id).await.changes_since(&before.0), expected);
    assert_eq!(db.row(other).await.changes_since(&before.1), json!({}));
    let recorded = "select string_agg(concat_ws(', ', failed_message_id, who, what, why,
                        convert_from(previous_body, 'UTF8')), '; ') from failed_actions";
    assert_eq!(db.text(recorded).await, format!("{id}, an operator, edit, a reason, one"));
    let due = db.lead().await.due(10, usize::MAX).await.unwrap();
    assert_eq!(due.len(), 1);
    let copy = (due[0].message_id.as_deref(), due[0].kind.as_str(), &due[0].body[..], due[0].generation);
    assert_eq!((copy, due[0].edited), ((Some("m1-edited"), "deallocate", &b"two"[..], 5), true));
}

#[tokio::test]
async fn an_edit_is_skipped_unless_the_message_is_dead_and_unchanged_since_it_was_shown() {
    let db = Database::new().await;
    for (number, (status, columns)) in STATUSES.into_iter().enumerate() {
        for (shown, if_dead) in [(3, CHANGED), (5, CHANGED), (4, ActionResult::Applied)] {
            let id = db.failed(&format!("m{number}-{shown}"), columns).await;
            let before = db.row(id).await;
            let edit = Edit { message_id: format!("edited-{number}-{shown}"), ..edit(shown) };
            let result = apply(db.failed_messages(), id, edit).await;
            let expected = if status == "dead" { if_dead } else { NOT_DEAD };
            assert_eq!(result, expected, "{status}, shown: {shown}");
            if result != ActionResult::Applied {
                assert_eq!(db.row(id).await.changes_since(&before), json!({}), "{status}, shown: {shown}");
            }
        }
    }
    assert_eq!(db.count("select count(*) from failed_actions").await, 1);
    let missing = apply(db.failed_messages(), -1, edit(1)).await;
    assert_eq!(missing, ActionResult::Skipped(SkipReason::NotFound));
}

/// A message that was handled stays dead after a skipped edit: only a dead message can be edited again.
#[tokio::test]
async fn a_skipped_edit_changes_nothing_even_if_the_message_was_handled() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    db.execute(
        "insert into inbox (queue, message_id, type, fingerprint)
         select queue, message_id, type, fingerprint from failed_messages",
    )
    .await;
    let before = db.row(id).await;
    assert_eq!(apply(db.failed_messages(), id, edit(3)).await, CHANGED);
    assert_eq!(db.row(id).await.changes_since(&before), json!({}));
    assert_eq!(apply(db.failed_messages(), id, edit(4)).await, ActionResult::Applied);
}

/// Two operators edit the same version of a message.
#[tokio::test]
async fn of_two_concurrent_edits_the_second_is_skipped() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let gate = db.gate_after_inserts("failed_actions").await;
    let edit =
        |body: &[u8]| tokio::spawn(apply(db.failed_messages(), id, Edit { body: body.into(), ..edit(4) }));
    let first = edit(b"first");
    db.wait_until_blocked(1).await;
    let second = edit(b"second");
    db.wait_until_blocked(2).await;
    gate.open().await;
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (ActionResult::Applied, NOT_DEAD));
    assert_eq!(db.row(id).await.column("body"), "\\x6669727374");
}

/// The end of a unit of work with a copy of the message, and the result of an edit that waited for it.
struct Ending {
    name: &'static str,
    failures: Option<RetryDecision>,
    commits: bool,
    edit: ActionResult,
    status: &'static str,
}

/// The operator edits generation 3. A copy of generation 4, from a later retry, is being handled.
#[tokio::test]
async fn an_edit_waits_for_the_transaction_that_handles_a_copy() {
    let dead = Some(RetryDecision::Dead(Reason::Rejected));
    let endings = [
        Ending { name: "handled", failures: None, commits: true, edit: NOT_DEAD, status: "resolved" },
        Ending { name: "failed", failures: dead, commits: true, edit: CHANGED, status: "dead" },
        Ending { name: "rolled back", failures: None, commits: false, edit: NOT_DEAD, status: "retrying" },
    ];
    for ending in endings {
        let db = Database::new().await;
        let id = db.failed("m1", RETRYING).await;
        let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
        let mut handling = db.begin().await;
        let mark = RetryMark { failed_message_id: id, generation: 4, secret };
        assert_eq!(handling.check_retries(&[mark]).await.unwrap(), [RetryCheck::Current]);
        handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
        let edit = tokio::spawn(apply(db.failed_messages(), id, edit(3)));
        db.wait_until_blocked(1).await;
        let failures =
            ending.failures.map(|next| failure(failed_message_key(Some("m1"), "allocate", 1), 4, next));
        let failures: Vec<NewAttempt> = failures.into_iter().collect();
        match (ending.commits, failures.is_empty()) {
            (false, _) => handling.rollback().await,
            (true, true) => {
                handling
                    .commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() })
                    .await
                    .unwrap();
            }
            (true, false) => {
                let unhandled = vec!["m1".into()];
                handling.commit(ChangeSet { unhandled, failures, ..ChangeSet::default() }).await.unwrap();
            }
        }
        assert_eq!(edit.await.unwrap(), ending.edit, "{}", ending.name);
        let row = db.row(id).await;
        assert_eq!(row.column("status"), ending.status, "{}", ending.name);
        assert_eq!((row.column("body"), row.column("edited")), (&json!("\\x6f6e65"), &json!(false)));
    }
}

/// The sender sends the dead message again, and an operator edits the row while that message is handled. The handled message
/// is not the one in the row after the edit.
#[tokio::test]
async fn handling_the_old_body_does_not_resolve_a_message_that_is_being_edited() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let mut handling = db.begin().await;
    handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
    let gate = db.gate_after_inserts("failed_actions").await;
    let edit = Edit { message_id: "m1".into(), ..edit(4) };
    let edit = tokio::spawn(apply(db.failed_messages(), id, edit));
    db.wait_until_blocked(1).await;
    let success =
        tokio::spawn(handling.commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() }));
    db.wait_until_blocked(2).await;
    gate.open().await;
    assert_eq!(edit.await.unwrap(), ActionResult::Applied);
    success.await.unwrap().unwrap();
    let row = db.row(id).await;
    assert_eq!((row.column("status"), row.column("generation")), (&json!("retrying"), &json!(5)));
    assert_eq!(db.lead().await.due(10, usize::MAX).await.unwrap().len(), 1, "the edited message is due");
}
