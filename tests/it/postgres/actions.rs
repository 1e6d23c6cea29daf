//! An operator's action on a failed message: what it does depends on the status, on the inbox, and on the copy on its way.

use allocation::ports::{
    ledger::{Acted, Action, Ledger as _, Selection},
    queue::RetryMark,
    store::Work,
};
use serde_json::{Value, json};

use crate::harness::Database;

use super::{RETRYING, STATUSES, operator, receipt};

const HANDLED: Acted = Acted::Skipped("it was handled meanwhile");
const ON_ITS_WAY: Acted = Acted::Skipped("it is on its way already");
const IS_DISCARDED: Acted = Acted::Skipped("it is discarded; restore it first");
const IS_RESOLVED: Acted = Acted::Skipped("it is resolved");
const NOT_DEAD: Acted = Acted::Skipped("it is not dead");
const NOT_DISCARDED: Acted = Acted::Skipped("it is not discarded");

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
type Case = (Action, &'static str, bool, Option<bool>, Acted, Change);

const CASES: [Case; 20] = [
    (Action::Retry, "dead", false, None, Acted::Done, Change::Revived),
    (Action::Retry, "dead", true, None, HANDLED, Change::Resolved),
    (Action::Retry, "retrying", false, Some(false), Acted::Done, Change::Hastened),
    (Action::Retry, "retrying", false, Some(true), ON_ITS_WAY, Change::None),
    (Action::Retry, "retrying", true, None, HANDLED, Change::Resolved),
    (Action::Retry, "discarded", false, None, IS_DISCARDED, Change::None),
    (Action::Retry, "discarded", true, None, HANDLED, Change::None),
    (Action::Retry, "resolved", false, None, IS_RESOLVED, Change::None),
    (Action::Retry, "resolved", true, None, HANDLED, Change::None),
    (Action::Discard, "dead", false, None, Acted::Done, Change::Discarded),
    (Action::Discard, "dead", true, None, Acted::Done, Change::Discarded),
    (Action::Discard, "discarded", false, None, NOT_DEAD, Change::None),
    (Action::Discard, "discarded", true, None, NOT_DEAD, Change::None),
    (Action::Discard, "resolved", false, None, NOT_DEAD, Change::None),
    (Action::Discard, "resolved", true, None, NOT_DEAD, Change::None),
    (Action::Restore, "dead", false, None, NOT_DISCARDED, Change::None),
    (Action::Restore, "retrying", false, None, NOT_DISCARDED, Change::None),
    (Action::Restore, "discarded", false, None, Acted::Done, Change::Restored),
    (Action::Restore, "discarded", true, None, Acted::Done, Change::Restored),
    (Action::Restore, "resolved", false, None, NOT_DISCARDED, Change::None),
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
            let acted = ledger.act(action, &[id], &Selection::default(), &operator()).await.unwrap();
            assert_eq!(acted, [(id, outcome.clone())], "{case}");
            assert_eq!(db.row(id).await.changes_since(&before), expected(change, status), "{case}");
            let name = format!("{action:?}").to_lowercase();
            let done = format!("an operator, {name}, a reason");
            assert_eq!(recorded(&db).await, if outcome == Acted::Done { &done } else { "" }, "{case}");
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
        ("'-1 day'", "'-70 seconds'", Acted::Done),
        ("'-50 seconds'", "null", ON_ITS_WAY),
        ("'-50 seconds'", "'-70 seconds'", Acted::Done),
        ("'-70 seconds'", "null", Acted::Done),
        ("'50 seconds'", "null", Acted::Done),
    ];
    for (number, (due, published, outcome)) in cases.into_iter().enumerate() {
        let columns = format!(
            "status = 'retrying', reason = null, due_at = now() + interval {due},
             published_at = now() + {published}::interval"
        );
        let id = db.failed(&format!("m{number}"), &columns).await;
        let acted = db.ledger().act(Action::Retry, &[id], &Selection::default(), &operator()).await.unwrap();
        assert_eq!(acted, [(id, outcome)], "due: {due}, published: {published}");
    }
}

/// Handled is what the inbox has under the same queue, id, type and body. Rows from before types were kept fit any type.
#[tokio::test]
async fn a_retry_is_skipped_only_for_the_message_that_was_handled() {
    let db = Database::new().await;
    let cases = [
        ("'orders', 'm1', 'allocate', '01'", HANDLED),
        ("'orders', 'm1', null, '01'", HANDLED),
        ("'stock', 'm1', 'allocate', '01'", Acted::Done),
        ("'orders', 'm2', 'allocate', '01'", Acted::Done),
        ("'orders', 'm1', 'deallocate', '01'", Acted::Done),
        ("'orders', 'm1', 'allocate', '02'", Acted::Done),
        ("'orders', 'm1', null, '02'", Acted::Done),
    ];
    for (handled, outcome) in cases {
        let id = db.failed("m1", "").await;
        db.execute(&format!(
            "insert into inbox (queue, message_id, type, fingerprint)
             select queue, message_id, type, decode(repeat(body, 16), 'hex')
             from (values ({handled})) as handled (queue, message_id, type, body)"
        ))
        .await;
        let acted = db.ledger().act(Action::Retry, &[id], &Selection::default(), &operator()).await.unwrap();
        let status = if outcome == Acted::Done { "retrying" } else { "resolved" };
        assert_eq!(acted, [(id, outcome)], "{handled}");
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
    handling.first_sights(&[receipt("m1", "allocate", 1)]).await.unwrap();
    let ledger = db.ledger();
    let action =
        tokio::spawn(
            async move { ledger.act(Action::Retry, &[id], &Selection::default(), &operator()).await },
        );
    db.wait_until_blocked(1).await;
    let handled = Work { handled: vec!["m1".into()], ..Work::default() };
    handling.commit(handled).await.unwrap();
    assert_eq!(action.await.unwrap().unwrap(), [(id, IS_RESOLVED)]);
    assert_eq!(db.row(id).await.column("status"), "resolved");
}
