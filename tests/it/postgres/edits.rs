//! An operator replaces the body of a dead message, while other operators and copies of the message are about.

use allocation::{
    domain::BodyHash,
    ports::{
        failed_messages::{ActionResult, Edit, FailedMessages as _, NewAttempt, Reason, RetryDecision},
        queue::RetryMark,
        store::{ChangeSet, RetryCheck},
    },
};
use serde_json::json;

use crate::harness::Database;

use super::{RETRYING, STATUSES, failed_message_key, failure, message_key, operator};

const NOT_DEAD: ActionResult = ActionResult::Skipped("it is not dead");
const CHANGED: ActionResult = ActionResult::Skipped("it changed meanwhile; look at it again");

/// The type, the id and the body change.
fn edit(shown_generation: i64) -> Edit {
    Edit {
        shown_generation,
        kind: "deallocate".into(),
        message_id: "m1-edited".into(),
        body: b"two".into(),
        body_hash: BodyHash([2; 16]),
    }
}

#[tokio::test]
async fn an_edit_replaces_what_the_copy_is_made_of_and_tries_again() {
    let db = Database::new().await;
    let columns = "published_at = now() - interval '1 hour', held_because = 'no queue'";
    let (id, other) = (db.failed("m1", columns).await, db.failed("m2", "").await);
    let before = (db.row(id).await, db.row(other).await);
    assert_eq!(db.ledger().edit(id, &edit(4), &operator()).await.unwrap(), ActionResult::Applied);
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
    let due = db.lead().await.due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    let copy = (due[0].message_id.as_deref(), due[0].kind.as_str(), &due[0].body[..], due[0].generation);
    assert_eq!((copy, due[0].edited), ((Some("m1-edited"), "deallocate", &b"two"[..], 5), true));
}

#[tokio::test]
async fn an_edit_is_refused_unless_the_message_is_dead_and_is_the_one_that_was_shown() {
    let db = Database::new().await;
    for (number, (status, columns)) in STATUSES.into_iter().enumerate() {
        for (shown, if_dead) in [(3, CHANGED), (5, CHANGED), (4, ActionResult::Applied)] {
            let id = db.failed(&format!("m{number}-{shown}"), columns).await;
            let before = db.row(id).await;
            let edit = Edit { message_id: format!("edited-{number}-{shown}"), ..edit(shown) };
            let outcome = db.ledger().edit(id, &edit, &operator()).await.unwrap();
            let expected = if status == "dead" { if_dead } else { NOT_DEAD };
            assert_eq!(outcome, expected, "{status}, shown: {shown}");
            if outcome != ActionResult::Applied {
                assert_eq!(db.row(id).await.changes_since(&before), json!({}), "{status}, shown: {shown}");
            }
        }
    }
    assert_eq!(db.count("select count(*) from failed_actions").await, 1);
    let missing = db.ledger().edit(-1, &edit(1), &operator()).await.unwrap();
    assert_eq!(missing, ActionResult::Skipped("there is none"));
}

/// Two operators were shown the same message, and both save.
#[tokio::test]
async fn of_two_edits_at_once_the_second_is_refused() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let gate = db.gate_after_inserts("failed_actions").await;
    let edit = |body: &[u8]| {
        let (ledger, edit) = (db.ledger(), Edit { body: body.into(), ..edit(4) });
        tokio::spawn(async move { ledger.edit(id, &edit, &operator()).await.unwrap() })
    };
    let first = edit(b"first");
    db.wait_until_blocked(1).await;
    let second = edit(b"second");
    db.wait_until_blocked(2).await;
    gate.open().await;
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (ActionResult::Applied, NOT_DEAD));
    assert_eq!(db.row(id).await.column("body"), "\\x6669727374");
}

/// How a unit of work ends that handles a copy of a message, and what an edit comes to that waited for it.
struct Ending {
    name: &'static str,
    failures: Option<RetryDecision>,
    commit_signal: bool,
    edit: ActionResult,
    status: &'static str,
}

/// An operator was shown generation 3. A copy of generation 4, from a retry since then, is being handled.
#[tokio::test]
async fn an_edit_waits_for_the_copy_that_is_being_handled() {
    let dead = Some(RetryDecision::Dead(Reason::Rejected));
    let endings = [
        Ending { name: "handled", failures: None, commit_signal: true, edit: NOT_DEAD, status: "resolved" },
        Ending { name: "failed", failures: dead, commit_signal: true, edit: CHANGED, status: "dead" },
        Ending {
            name: "rolled back",
            failures: None,
            commit_signal: false,
            edit: NOT_DEAD,
            status: "retrying",
        },
    ];
    for ending in endings {
        let db = Database::new().await;
        let id = db.failed("m1", RETRYING).await;
        let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
        let mut handling = db.begin().await;
        let mark = RetryMark { failed_message_id: id, generation: 4, secret };
        assert_eq!(handling.check_retries(&[mark]).await.unwrap(), [RetryCheck::Current]);
        handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
        let ledger = db.ledger();
        let edit = tokio::spawn(async move { ledger.edit(id, &edit(3), &operator()).await.unwrap() });
        db.wait_until_blocked(1).await;
        let failures =
            ending.failures.map(|next| failure(failed_message_key(Some("m1"), "allocate", 1), 4, next));
        let failures: Vec<NewAttempt> = failures.into_iter().collect();
        match (ending.commit_signal, failures.is_empty()) {
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

/// The sender sends the dead message again, and while that copy is handled, an operator edits the row: what was handled
/// is not what the row is now.
#[tokio::test]
async fn a_success_of_the_old_body_does_not_resolve_a_message_that_is_being_edited() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let mut handling = db.begin().await;
    handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
    let gate = db.gate_after_inserts("failed_actions").await;
    let ledger = db.ledger();
    let edit = tokio::spawn(async move {
        let edit = Edit { message_id: "m1".into(), ..edit(4) };
        ledger.edit(id, &edit, &operator()).await.unwrap()
    });
    db.wait_until_blocked(1).await;
    let success =
        tokio::spawn(handling.commit(ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() }));
    db.wait_until_blocked(2).await;
    gate.open().await;
    assert_eq!(edit.await.unwrap(), ActionResult::Applied);
    success.await.unwrap().unwrap();
    let row = db.row(id).await;
    assert_eq!((row.column("status"), row.column("generation")), (&json!("retrying"), &json!(5)));
    assert_eq!(db.lead().await.due(10).await.unwrap().len(), 1, "the edited message is lost");
}
