//! Which failed messages an operator means: every filter, by itself, with every action.

use std::time::Duration;

use allocation::{
    ports::failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _, OperatorAction},
    service::failed_messages::{BulkReport, act_on_all},
};
use tokio_util::sync::CancellationToken;

use crate::harness::Database;

use super::{RETRYING, operator};

const NOT_MEANT: ActionResult = ActionResult::Skipped("it changed meanwhile and no longer matches");

/// A filter: its name, what it asks for, what a row must have to match, and what another has that does not match.
struct Filter {
    name: &'static str,
    set: fn(&mut FailedMessageFilter, i64),
    matching: &'static str,
    other: &'static str,
}

const FILTERS: [Filter; 8] = [
    Filter { name: "ids", set: |filter, id| filter.ids = Some(vec![id]), matching: "", other: "" },
    Filter {
        name: "queue",
        set: |filter, _| filter.queue = Some("stock".into()),
        matching: "queue = 'stock'",
        other: "queue = 'orders'",
    },
    Filter {
        name: "type",
        set: |filter, _| filter.kind = Some("allocate".into()),
        matching: "type = 'allocate'",
        other: "type = 'deallocate'",
    },
    Filter {
        name: "reason",
        set: |filter, _| filter.reason = Some("rejected".into()),
        matching: "reason = 'rejected'",
        other: "reason = 'crash_loop'",
    },
    Filter {
        name: "grep in the error",
        set: |filter, _| filter.grep = Some("SKU_x%".into()),
        matching: "error = 'Invalid sku_X%'",
        other: "error = 'Invalid sku-X-and-more'",
    },
    Filter {
        name: "grep in the id",
        set: |filter, _| filter.grep = Some("MATCH".into()),
        matching: "",
        other: "",
    },
    Filter {
        name: "since",
        set: |filter, _| filter.since = Some(Duration::from_mins(10)),
        matching: "last_failed_at = now() - interval '9 minutes'",
        other: "last_failed_at = now() - interval '11 minutes'",
    },
    Filter {
        name: "group",
        set: |filter, _| filter.group = Some("group-2".into()),
        matching: "error_group = 'group-2'",
        other: "error_group = 'group-1'",
    },
];

/// Two rows that differ in what the filter asks for, and the filter.
async fn two_rows(db: &Database, case: &Filter, status: &str) -> (i64, i64, FailedMessageFilter) {
    db.execute("delete from failed_messages").await;
    let columns = |columns: &str| {
        let comma = if columns.is_empty() { "" } else { ", " };
        format!("status = '{status}'{comma}{columns}")
    };
    let matching = db.failed("it-does-match", &columns(case.matching)).await;
    let other = db.failed("another", &columns(case.other)).await;
    let mut filter = FailedMessageFilter::default();
    (case.set)(&mut filter, matching);
    (matching, other, filter)
}

/// The actions, each with a status in which it does something.
const ACTIONS: [(OperatorAction, &str); 3] = [
    (OperatorAction::Retry, "dead"),
    (OperatorAction::Discard, "dead"),
    (OperatorAction::Restore, "discarded"),
];

#[tokio::test]
async fn every_filter_keeps_every_action_from_what_it_does_not_match() {
    let db = Database::new().await;
    let (ledger, stop) = (db.ledger(), CancellationToken::new());
    for filter in &FILTERS {
        for (action, status) in ACTIONS {
            let case = format!("{action:?} by {}", filter.name);
            let (matching, other, filter) = two_rows(&db, filter, status).await;
            assert_eq!(ledger.matching(&filter).await.unwrap(), [matching], "{case}");
            let before = (db.row(matching).await, db.row(other).await);
            let by = operator();
            let all = act_on_all(&*ledger, action, &filter, &by, None, &stop, |_, _| ());
            let done = BulkReport { matched: 1, done: 1, ..BulkReport::default() };
            assert_eq!(all.await.unwrap(), done, "{case}");
            assert_ne!(db.row(matching).await.column("status"), before.0.column("status"), "{case}");
            assert_eq!(db.row(other).await.changes_since(&before.1), serde_json::json!({}), "{case}");
        }
    }
}

/// Between the choice of the ids and the action a row may have changed; the filter is asked again when the row is held.
/// The ids are those that were chosen, and the time of the last failure only moves on.
#[tokio::test]
async fn an_action_skips_what_its_filter_does_not_match_any_more() {
    let db = Database::new().await;
    let ledger = db.ledger();
    for filter in FILTERS.iter().filter(|filter| !["ids", "since"].contains(&filter.name)) {
        for (action, status) in ACTIONS {
            let case = format!("{action:?} by {}", filter.name);
            let (matching, other, filter) = two_rows(&db, filter, status).await;
            let before = db.row(other).await;
            let results = ledger.apply(action, &[other, matching], &filter, &operator()).await.unwrap();
            assert_eq!(results, [(other, NOT_MEANT), (matching, ActionResult::Applied)], "{case}");
            assert_eq!(db.row(other).await.changes_since(&before), serde_json::json!({}), "{case}");
        }
    }
    let (dead, retrying) = (db.failed("dead", "").await, db.failed("waits", RETRYING).await);
    let filter = FailedMessageFilter { status: Some("dead".into()), ..FailedMessageFilter::default() };
    assert_eq!(
        ledger
            .matching(&FailedMessageFilter { ids: Some(vec![dead, retrying]), ..filter.clone() })
            .await
            .unwrap(),
        [dead]
    );
    let results = ledger.apply(OperatorAction::Retry, &[dead, retrying], &filter, &operator()).await.unwrap();
    assert_eq!(results, [(retrying, NOT_MEANT), (dead, ActionResult::Applied)]);
    assert_eq!(db.row(retrying).await.column("attempts"), 3);
}

/// What another transaction changes while the action waits for the row counts, too.
#[tokio::test]
async fn an_action_looks_at_the_row_as_it_is_when_its_turn_comes() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let mut other = db.pool.begin().await.unwrap();
    let change = sqlx::query("update failed_messages set reason = 'crash_loop' where id = $1").bind(id);
    change.execute(&mut *other).await.unwrap();
    let ledger = db.ledger();
    let action = tokio::spawn(async move {
        let rejected =
            FailedMessageFilter { reason: Some("rejected".into()), ..FailedMessageFilter::default() };
        ledger.apply(OperatorAction::Retry, &[id], &rejected, &operator()).await
    });
    db.wait_until_blocked(1).await;
    other.commit().await.unwrap();
    assert_eq!(action.await.unwrap().unwrap(), [(id, NOT_MEANT)]);
    assert_eq!(db.row(id).await.column("status"), "dead");
}

#[tokio::test]
async fn actions_begin_with_the_longest_dead() {
    let db = Database::new().await;
    let mut expected = Vec::new();
    for (message_id, hours) in [("m1", 2), ("m2", 3), ("m3", 1), ("m4", 2)] {
        let failed = format!("last_failed_at = date_trunc('hour', now()) - interval '{hours} hours'");
        expected.push((-hours, db.failed(message_id, &failed).await));
    }
    expected.sort_unstable();
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
    assert_eq!(db.ledger().matching(&FailedMessageFilter::default()).await.unwrap(), expected);
}
