//! Operator actions on failed messages: the result depends on the status, on the inbox, and on the last copy.

use allocation::{
    domain::{OperatorAction, SkipReason},
    ports::{
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _},
        queue::RetryMark,
        store::ChangeSet,
    },
};
use serde_json::{Value, json};

use crate::harness::Database;

use super::{RETRYING, STATUSES, message_key, operator};

const HANDLED: ActionResult = ActionResult::Skipped(SkipReason::AlreadyHandled);
const SCHEDULED: ActionResult = ActionResult::Skipped(SkipReason::RetryScheduled);
const IS_DISCARDED: ActionResult = ActionResult::Skipped(SkipReason::Discarded);
const IS_RESOLVED: ActionResult = ActionResult::Skipped(SkipReason::Resolved);
const DISCARDED_BEFORE: ActionResult = ActionResult::Skipped(SkipReason::AlreadyDiscarded);
const WAITS: ActionResult = ActionResult::Skipped(SkipReason::Waiting);
const NOT_DISCARDED: ActionResult = ActionResult::Skipped(SkipReason::NotDiscarded);

/// What an action changes in a row.
#[derive(Clone, Copy)]
enum Change {
    None,
    /// Retried from attempt 1.
    Restarted,
    /// Due now; its attempts are kept.
    DueNow,
    Discarded,
    /// It was not dead.
    DiscardedEarly,
    Restored,
    Resolved,
}

/// The action, the status, whether the message was handled, whether its retry is scheduled (if it matters), the result,
/// and the change of the row.
type Case = (OperatorAction, &'static str, bool, Option<bool>, ActionResult, Change);

const CASES: [Case; 26] = [
    (OperatorAction::Retry, "dead", false, None, ActionResult::Applied, Change::Restarted),
    (OperatorAction::Retry, "dead", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Retry, "retrying", false, Some(false), ActionResult::Applied, Change::DueNow),
    (OperatorAction::Retry, "retrying", false, Some(true), SCHEDULED, Change::None),
    (OperatorAction::Retry, "retrying", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Retry, "waiting", false, None, WAITS, Change::None),
    (OperatorAction::Retry, "waiting", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Retry, "discarded", false, None, IS_DISCARDED, Change::None),
    (OperatorAction::Retry, "discarded", true, None, HANDLED, Change::None),
    (OperatorAction::Retry, "resolved", false, None, IS_RESOLVED, Change::None),
    (OperatorAction::Retry, "resolved", true, None, HANDLED, Change::None),
    (OperatorAction::Discard, "dead", false, None, ActionResult::Applied, Change::Discarded),
    (OperatorAction::Discard, "dead", true, None, ActionResult::Applied, Change::Discarded),
    (OperatorAction::Discard, "retrying", false, None, ActionResult::Applied, Change::DiscardedEarly),
    (OperatorAction::Discard, "retrying", true, None, HANDLED, Change::Resolved),
    (OperatorAction::Discard, "waiting", false, None, ActionResult::Applied, Change::DiscardedEarly),
    (OperatorAction::Discard, "discarded", false, None, DISCARDED_BEFORE, Change::None),
    (OperatorAction::Discard, "discarded", true, None, DISCARDED_BEFORE, Change::None),
    (OperatorAction::Discard, "resolved", false, None, IS_RESOLVED, Change::None),
    (OperatorAction::Discard, "resolved", true, None, IS_RESOLVED, Change::None),
    (OperatorAction::Restore, "dead", false, None, NOT_DISCARDED, Change::None),
    (OperatorAction::Restore, "dead", true, None, NOT_DISCARDED, Change::Resolved),
    (OperatorAction::Restore, "retrying", false, None, NOT_DISCARDED, Change::None),
    (OperatorAction::Restore, "discarded", false, None, ActionResult::Applied, Change::Restored),
    (OperatorAction::Restore, "discarded", true, None, ActionResult::Applied, Change::Restored),
    (OperatorAction::Restore, "resolved", false, None, NOT_DISCARDED, Change::None),
];

/// A row in which every column that an action may change has a value.
async fn row_of(db: &Database, status: &str, handled: bool, scheduled: bool) -> i64 {
    let (_, columns) = STATUSES.iter().find(|(name, _)| *name == status).unwrap();
    let published = if scheduled { "20 seconds" } else { "90 seconds" };
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
        Change::Restarted => json!({
            "status": "retrying", "reason": null, "due_at": "now", "published_at": null, "attempts": 0, "generation": 5
        }),
        Change::DueNow => json!({ "due_at": "now", "published_at": null }),
        Change::Discarded => json!({ "status": "discarded", "ended_at": "now" }),
        Change::DiscardedEarly if status == "waiting" => {
            json!({ "status": "discarded", "reason": "discarded", "ended_at": "now" })
        }
        Change::DiscardedEarly => {
            json!({ "status": "discarded", "reason": "discarded", "due_at": null, "ended_at": "now" })
        }
        Change::Restored => json!({ "status": "dead", "ended_at": null }),
        Change::Resolved if status == "waiting" => json!({ "status": "resolved", "ended_at": "now" }),
        Change::Resolved if status == "dead" => {
            json!({ "status": "resolved", "reason": null, "ended_at": "now" })
        }
        Change::Resolved => json!({ "status": "resolved", "due_at": null, "ended_at": "now" }),
    }
}

/// The recorded actions.
async fn recorded(db: &Database) -> String {
    db.text("select string_agg(concat_ws(', ', who, what, why, previous_body), '; ') from failed_actions")
        .await
}

#[tokio::test]
async fn every_action_has_its_result_and_changes_only_its_columns() {
    let db = Database::new().await;
    let failed_messages = db.failed_messages();
    for (action, status, handled, scheduled, result, change) in CASES {
        for scheduled in scheduled.map_or(vec![false, true], |only| vec![only]) {
            let case = format!("{action:?}, {status}, handled: {handled}, scheduled: {scheduled}");
            let id = row_of(&db, status, handled, scheduled).await;
            let before = db.row(id).await;
            let results = failed_messages
                .apply(&action, &[id], &FailedMessageFilter::default(), &operator())
                .await
                .unwrap();
            assert_eq!(results, [(id, result)], "{case}");
            assert_eq!(db.row(id).await.changes_since(&before), expected(change, status), "{case}");
            let action = format!("an operator, {}, a reason", action.name());
            let expected = if result == ActionResult::Applied { &action } else { "" };
            assert_eq!(recorded(&db).await, expected, "{case}");
            db.execute("delete from failed_messages; delete from inbox").await;
        }
    }
}

/// A copy that was published, or was due, less than a minute ago may still be in the queue; an older one may be lost.
#[tokio::test]
async fn a_retry_counts_as_scheduled_for_one_minute() {
    let db = Database::new().await;
    let cases = [
        ("'-1 day'", "'-50 seconds'", SCHEDULED),
        ("'-1 day'", "'-70 seconds'", ActionResult::Applied),
        ("'-50 seconds'", "null", SCHEDULED),
        ("'-50 seconds'", "'-70 seconds'", ActionResult::Applied),
        ("'-70 seconds'", "null", ActionResult::Applied),
        ("'50 seconds'", "null", ActionResult::Applied),
    ];
    for (number, (due, published, result)) in cases.into_iter().enumerate() {
        let columns = format!(
            "status = 'retrying', reason = null, due_at = now() + interval {due},
             published_at = now() + {published}::interval"
        );
        let id = db.failed(&format!("m{number}"), &columns).await;
        let results = db
            .failed_messages()
            .apply(&OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
            .unwrap();
        assert_eq!(results, [(id, result)], "due: {due}, published: {published}");
    }
}

/// A message was handled if the inbox has its queue, id, type and body. Old inbox rows have no type and match any.
#[tokio::test]
async fn a_retry_is_skipped_only_if_exactly_this_message_was_handled() {
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
    for (handled, result) in cases {
        let id = db.failed("m1", "").await;
        db.execute(&format!(
            "insert into inbox (queue, message_id, type, fingerprint)
             select queue, message_id, type, decode(repeat(body, 16), 'hex')
             from (values ({handled})) as handled (queue, message_id, type, body)"
        ))
        .await;
        let results = db
            .failed_messages()
            .apply(&OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
            .unwrap();
        let status = if result == ActionResult::Applied { "retrying" } else { "resolved" };
        assert_eq!(results, [(id, result)], "{handled}");
        assert_eq!(db.row(id).await.column("status"), status, "{handled}");
        db.execute("delete from failed_messages; delete from inbox").await;
    }
}

#[tokio::test]
async fn an_action_waits_for_the_transaction_that_handles_a_copy() {
    let db = Database::new().await;
    let id = db.failed("m1", RETRYING).await;
    let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
    let mark = RetryMark { failed_message_id: id, generation: 4, secret };
    let mut handling = db.begin().await;
    handling.check_retries(&[mark]).await.unwrap();
    handling.check_inbox(&[message_key("m1", "allocate", 1)]).await.unwrap();
    let failed_messages = db.failed_messages();
    let action = tokio::spawn(async move {
        failed_messages
            .apply(&OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
    });
    db.wait_until_blocked(1).await;
    let handled = ChangeSet { handled: vec!["m1".into()], ..ChangeSet::default() };
    handling.commit(handled).await.unwrap();
    assert_eq!(action.await.unwrap().unwrap(), [(id, IS_RESOLVED)]);
    assert_eq!(db.row(id).await.column("status"), "resolved");
}
