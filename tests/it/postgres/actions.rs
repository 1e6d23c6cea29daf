//! An operator's action on a failed message: what it does depends on the status, on the inbox, and on the copy on its way.

use allocation::ports::{
    failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _, OperatorAction},
    queue::RetryMark,
    store::ChangeSet,
};
use serde_json::{Value, json};

use crate::harness::Database;

use super::{RETRYING, STATUSES, message_key, operator};

const HANDLED: ActionResult = ActionResult::Skipped("it was handled meanwhile");
const ON_ITS_WAY: ActionResult = ActionResult::Skipped("it is on its way already");
const IS_DISCARDED: ActionResult = ActionResult::Skipped("it is discarded; restore it first");
const IS_RESOLVED: ActionResult = ActionResult::Skipped("it is resolved");
const NOT_DEAD: ActionResult = ActionResult::Skipped("it is not dead");
const NOT_DISCARDED: ActionResult = ActionResult::Skipped("it is not discarded");

/// What an action changes in a row.
#[derive(Clone, Copy)]
enum Change {
    None,
    /// Dead, and tried again from the first attempt.
    Revived,
    /// Tried again at once; its attempts count on.
    Hastened,
    Discarded,
    Restored,
    Resolved,
}

/// The action, the status, whether the message was handled, whether a copy is on its way (if it matters), the outcome,
/// and the change of the row.
type Case = (OperatorAction, &'static str, bool, Option<bool>, ActionResult, Change);

const CASES: [Case; 20] = [
    (OperatorAction::Retry, "dead", false, None, ActionResult::Applied, Change::Revived),
    (OperatorAction::Retry, "dead", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Retry, "retrying", false, Some(false), ActionResult::Applied, Change::Hastened),
    (OperatorAction::Retry, "retrying", false, Some(true), ON_ITS_WAY, Change::None),
    (OperatorAction::Retry, "retrying", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Retry, "discarded", false, None, IS_DISCARDED, Change::None),
    (OperatorAction::Retry, "discarded", true, None, HANDLED, Change::None),
    (OperatorAction::Retry, "resolved", false, None, IS_RESOLVED, Change::None),
    (OperatorAction::Retry, "resolved", true, None, HANDLED, Change::None),
    (OperatorAction::Discard, "dead", false, None, ActionResult::Applied, Change::Discarded),
    (OperatorAction::Discard, "dead", true, None, ActionResult::Applied, Change::Discarded),
    (OperatorAction::Discard, "discarded", false, None, NOT_DEAD, Change::None),
    (OperatorAction::Discard, "discarded", true, None, NOT_DEAD, Change::None),
    (OperatorAction::Discard, "resolved", false, None, NOT_DEAD, Change::None),
    (OperatorAction::Discard, "resolved", true, None, NOT_DEAD, Change::None),
    (OperatorAction::Restore, "dead", false, None, NOT_DISCARDED, Change::None),
    (OperatorAction::Restore, "retrying", false, None, NOT_DISCARDED, Change::None),
    (OperatorAction::Restore, "discarded", false, None, ActionResult::Applied, Change::Restored),
    (OperatorAction::Restore, "discarded", true, None, ActionResult::Applied, Change::Restored),
    (OperatorAction::Restore, "resolved", false, None, NOT_DISCARDED, Change::None),
];

/// A row on which each column has a value that an action might have to change.
async fn row_of(db: &Database, status: &str, handled: bool, on_its_way: bool) -> i64 {
    let (_, columns) = STATUSES.iter().find(|(name, _)| *name == status).unwrap();
    let published = if on_its_way { "20 seconds" } else { "90 seconds" };
    let columns = format!(
        "{columns}, published_at = now() - interval '{published}', held_because = 'no queue', edited = true"
    );
    let id = db.failed("m1", &columns).await;
    if handled {
        db.execute(
            "insert into inbox (queue, message_id, type, fingerprint)
             select queue, message_id, type, fingerprint from failed_messages",
        )
        .await;
    }
    id
}

fn expected(change: Change, status: &str) -> Value {
    match change {
        Change::None => json!({}),
        Change::Revived => json!({
            "status": "retrying", "reason": null, "due_at": "now", "published_at": null, "attempts": 0, "generation": 5
        }),
        Change::Hastened => json!({ "due_at": "now", "published_at": null }),
        Change::Discarded => json!({ "status": "discarded", "ended_at": "now" }),
        Change::Restored => json!({ "status": "dead", "ended_at": null }),
        Change::Resolved if status == "dead" => {
            json!({ "status": "resolved", "reason": null, "ended_at": "now" })
        }
        Change::Resolved => json!({ "status": "resolved", "due_at": null, "ended_at": "now" }),
    }
}

/// Who did what, and why.
async fn recorded(db: &Database) -> String {
    db.text("select string_agg(concat_ws(', ', who, what, why, previous_body), '; ') from failed_actions")
        .await
}

#[tokio::test]
async fn every_action_on_every_status_has_its_outcome_and_changes_nothing_else() {
    let db = Database::new().await;
    let ledger = db.ledger();
    for (action, status, handled, on_its_way, outcome, change) in CASES {
        for on_its_way in on_its_way.map_or(vec![false, true], |it_is| vec![it_is]) {
            let case = format!("{action:?}, {status}, handled: {handled}, on its way: {on_its_way}");
            let id = row_of(&db, status, handled, on_its_way).await;
            let before = db.row(id).await;
            let results =
                ledger.apply(action, &[id], &FailedMessageFilter::default(), &operator()).await.unwrap();
            assert_eq!(results, [(id, outcome.clone())], "{case}");
            assert_eq!(db.row(id).await.changes_since(&before), expected(change, status), "{case}");
            let name = format!("{action:?}").to_lowercase();
            let done = format!("an operator, {name}, a reason");
            assert_eq!(
                recorded(&db).await,
                if outcome == ActionResult::Applied { &done } else { "" },
                "{case}"
            );
            db.execute("delete from failed_messages; delete from inbox").await;
        }
    }
}

/// A copy that was published or was due in the last minute is not there yet; an older one may be lost. One that is due
/// later has not left.
#[tokio::test]
async fn a_copy_is_on_its_way_for_one_minute() {
    let db = Database::new().await;
    let cases = [
        ("'-1 day'", "'-50 seconds'", ON_ITS_WAY),
        ("'-1 day'", "'-70 seconds'", ActionResult::Applied),
        ("'-50 seconds'", "null", ON_ITS_WAY),
        ("'-50 seconds'", "'-70 seconds'", ActionResult::Applied),
        ("'-70 seconds'", "null", ActionResult::Applied),
        ("'50 seconds'", "null", ActionResult::Applied),
    ];
    for (number, (due, published, outcome)) in cases.into_iter().enumerate() {
        let columns = format!(
            "status = 'retrying', reason = null, due_at = now() + interval {due},
             published_at = now() + {published}::interval"
        );
        let id = db.failed(&format!("m{number}"), &columns).await;
        let results = db
            .ledger()
            .apply(OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
            .unwrap();
        assert_eq!(results, [(id, outcome)], "due: {due}, published: {published}");
    }
}

/// Handled is what the inbox has under the same queue, id, type and body. Rows from before types were kept fit any type.
#[tokio::test]
async fn a_retry_is_skipped_only_for_the_message_that_was_handled() {
    let db = Database::new().await;
    let cases = [
        ("'orders', 'm1', 'allocate', '01'", HANDLED),
        ("'orders', 'm1', null, '01'", HANDLED),
        ("'stock', 'm1', 'allocate', '01'", ActionResult::Applied),
        ("'orders', 'm2', 'allocate', '01'", ActionResult::Applied),
        ("'orders', 'm1', 'deallocate', '01'", ActionResult::Applied),
        ("'orders', 'm1', 'allocate', '02'", ActionResult::Applied),
        ("'orders', 'm1', null, '02'", ActionResult::Applied),
    ];
    for (handled, outcome) in cases {
        let id = db.failed("m1", "").await;
        db.execute(&format!(
            "insert into inbox (queue, message_id, type, fingerprint)
             select queue, message_id, type, decode(repeat(body, 16), 'hex')
             from (values ({handled})) as handled (queue, message_id, type, body)"
        ))
        .await;
        let results = db
            .ledger()
            .apply(OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
            .unwrap();
        let status = if outcome == ActionResult::Applied { "retrying" } else { "resolved" };
        assert_eq!(results, [(id, outcome)], "{handled}");
        assert_eq!(db.row(id).await.column("status"), status, "{handled}");
        db.execute("delete from failed_messages; delete from inbox").await;
    }
}

/// One that is handled now keeps the operator waiting, so that the action finds what came of it.
#[tokio::test]
async fn an_action_waits_for_the_copy_that_is_being_handled() {
    let db = Database::new().await;
    let id = db.failed("m1", RETRYING).await;
    let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
    let mark = RetryMark { failed_message_id: id, generation: 4, secret };
    let mut handling = db.begin().await;
    handling.check_retries(&[mark]).await.unwrap();
    handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
    let ledger = db.ledger();
    let action = tokio::spawn(async move {
        ledger.apply(OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator()).await
    });
    db.wait_until_blocked(1).await;
    let handled = ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() };
    handling.commit(handled).await.unwrap();
    assert_eq!(action.await.unwrap().unwrap(), [(id, IS_RESOLVED)]);
    assert_eq!(db.row(id).await.column("status"), "resolved");
}
