//! The filter of failed messages: every field, with every action, and the plans of the queries.

use std::time::Duration;

use allocation::{
    domain::{OperatorAction, SkipReason, StatusKind},
    pg::PLANNER,
    ports::failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _, Since},
    service::failed_messages::{BulkReport, apply_to_matching},
    views::Views,
};
use time::macros::datetime;
use tokio_util::sync::CancellationToken;

use crate::harness::Database;

use super::{RETRYING, operator};

const NO_LONGER_MATCHES: ActionResult = ActionResult::Skipped(SkipReason::NoLongerMatches);

/// A field of the filter: its name, a value, and the columns of a row that matches and of a row that does not.
struct Filter {
    name: &'static str,
    set: fn(&mut FailedMessageFilter, i64),
    matching: &'static str,
    other: &'static str,
}

const FILTERS: [Filter; 9] = [
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
        set: |filter, _| filter.since = Some(Since::Within(Duration::from_mins(10))),
        matching: "last_failed_at = now() - interval '9 minutes'",
        other: "last_failed_at = now() - interval '11 minutes'",
    },
    Filter {
        name: "since a time",
        set: |filter, _| filter.since = Some(Since::Time(datetime!(2026-11-25 3:00:00 +1))),
        matching: "last_failed_at = '2026-11-25T02:00:00.000001Z'",
        other: "last_failed_at = '2026-11-25T01:59:59.999999Z'",
    },
    Filter {
        name: "group",
        set: |filter, _| filter.group = Some("group-2".into()),
        matching: "error_group = 'group-2'",
        other: "error_group = 'group-1'",
    },
];

/// A row that matches, a row that does not, and the filter.
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

/// The actions, each with a status that it applies to.
const ACTIONS: [(OperatorAction, &str); 3] = [
    (OperatorAction::Retry, "dead"),
    (OperatorAction::Discard, "dead"),
    (OperatorAction::Restore, "discarded"),
];

#[tokio::test]
async fn every_action_changes_only_messages_that_match_the_filter() {
    let db = Database::new().await;
    let (failed_messages, stop) = (db.failed_messages(), CancellationToken::new());
    for filter in &FILTERS {
        for (action, status) in ACTIONS {
            let case = format!("{action:?} by {}", filter.name);
            let (matching, other, filter) = two_rows(&db, filter, status).await;
            assert_eq!(failed_messages.matching(&filter).await.unwrap(), [matching], "{case}");
            let before = (db.row(matching).await, db.row(other).await);
            let by = operator();
            let all = apply_to_matching(&*failed_messages, &action, &filter, &by, None, &stop, |_, _| ());
            let done = BulkReport { matched: 1, done: 1, ..BulkReport::default() };
            assert_eq!(all.await.unwrap(), done, "{case}");
            assert_ne!(db.row(matching).await.column("status"), before.0.column("status"), "{case}");
            assert_eq!(db.row(other).await.changes_since(&before.1), serde_json::json!({}), "{case}");
        }
    }
}

/// A row may change between the selection and the action; the filter is checked again under the lock. `ids` and `since`
/// cannot stop matching.
#[tokio::test]
async fn an_action_skips_messages_that_no_longer_match_its_filter() {
    let db = Database::new().await;
    let failed_messages = db.failed_messages();
    for filter in FILTERS.iter().filter(|filter| !["ids", "since", "since a time"].contains(&filter.name)) {
        for (action, status) in ACTIONS {
            let case = format!("{action:?} by {}", filter.name);
            let (matching, other, filter) = two_rows(&db, filter, status).await;
            let before = db.row(other).await;
            let results =
                failed_messages.apply(&action, &[other, matching], &filter, &operator()).await.unwrap();
            assert_eq!(results, [(other, NO_LONGER_MATCHES), (matching, ActionResult::Applied)], "{case}");
            assert_eq!(db.row(other).await.changes_since(&before), serde_json::json!({}), "{case}");
        }
    }
    let (dead, retrying) = (db.failed("dead", "").await, db.failed("waits", RETRYING).await);
    let filter = FailedMessageFilter { status: Some(StatusKind::Dead), ..FailedMessageFilter::default() };
    assert_eq!(
        failed_messages
            .matching(&FailedMessageFilter { ids: Some(vec![dead, retrying]), ..filter.clone() })
            .await
            .unwrap(),
        [dead]
    );
    let results =
        failed_messages.apply(&OperatorAction::Retry, &[dead, retrying], &filter, &operator()).await.unwrap();
    assert_eq!(results, [(retrying, NO_LONGER_MATCHES), (dead, ActionResult::Applied)]);
    assert_eq!(db.row(retrying).await.column("attempts"), 3);
}

/// Another transaction changes the row while the action waits for its lock.
#[tokio::test]
async fn the_filter_is_checked_on_the_row_as_it_is_after_a_lock_wait() {
    let db = Database::new().await;
    let id = db.failed("m1", "").await;
    let mut other = db.pool.begin().await.unwrap();
    let change = sqlx::query("update failed_messages set reason = 'crash_loop' where id = $1").bind(id);
    change.execute(&mut *other).await.unwrap();
    let failed_messages = db.failed_messages();
    let action = tokio::spawn(async move {
        let rejected =
            FailedMessageFilter { reason: Some("rejected".into()), ..FailedMessageFilter::default() };
        failed_messages.apply(&OperatorAction::Retry, &[id], &rejected, &operator()).await
    });
    db.wait_until_blocked(1).await;
    other.commit().await.unwrap();
    assert_eq!(action.await.unwrap().unwrap(), [(id, NO_LONGER_MATCHES)]);
    assert_eq!(db.row(id).await.column("status"), "dead");
}

#[tokio::test]
async fn the_message_that_failed_first_is_first() {
    let db = Database::new().await;
    let mut expected = Vec::new();
    for (message_id, hours) in [("m1", 2), ("m2", 3), ("m3", 1), ("m4", 2)] {
        let failed_again = format!("last_failed_at = now() - interval '{hours} hours'");
        expected.push(db.failed(message_id, &failed_again).await);
    }
    assert_eq!(db.failed_messages().matching(&FailedMessageFilter::default()).await.unwrap(), expected);
}

/// `dead-letters list` and the actions select the same messages.
#[tokio::test]
async fn a_list_has_the_messages_that_an_action_selects() {
    let db = Database::new().await;
    let views = Views::new(db.pool.clone(), "test".into(), Duration::from_secs(10));
    for filter in &FILTERS {
        let (matching, _, filter) = two_rows(&db, filter, "dead").await;
        let listed = views.failed_messages(&filter, 10, None).await.unwrap();
        let ids: Vec<_> = listed.iter().map(|message| message.id).collect();
        assert_eq!(ids, [matching], "{filter:?}");
        assert_eq!(db.failed_messages().matching(&filter).await.unwrap(), ids, "{filter:?}");
        assert_eq!(views.failed_message_pages(&filter).await.unwrap(), [ids], "{filter:?}");
    }
    let retrying = db.failed("retrying", RETRYING).await;
    let filter = FailedMessageFilter { status: Some(StatusKind::Retrying), ..FailedMessageFilter::default() };
    let listed = views.failed_messages(&filter, 10, None).await.unwrap();
    assert_eq!(listed.iter().map(|message| message.id).collect::<Vec<_>>(), [retrying]);
}

/// The planner inlines the function.
#[tokio::test]
async fn a_filter_uses_the_indexes_of_the_table() {
    let db = Database::new().await;
    db.execute(
        "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status, reason,
             error, error_pattern, error_group, attempts)
         select 'orders', number, '', 'allocate', '', '{}', '', 'dead', 'rejected', '', '', 'group-' || number, 1
         from generate_series(1, 2000) as number;
         analyze failed_messages",
    )
    .await;
    let mut session = db.pool.acquire().await.unwrap();
    for (name, value) in PLANNER {
        sqlx::query(&format!("set {name} = {value}")).execute(&mut *session).await.unwrap();
    }
    let cases = [
        ("'{1}', null, null, null, null, null, null, null", "order by last_failed_at, id", "pkey"),
        (
            "null, 'dead', null, null, null, 'x', null, null",
            "order by last_failed_at desc, id desc limit 9",
            "newest",
        ),
        (
            "null, 'dead', 'orders', null, null, 'x', coalesce(60, extract(epoch from now() - now())::double precision), 'group-1'",
            "order by last_failed_at, id",
            "group",
        ),
        ("null, 'dead', null, null, null, null, null, null", "and id = any('{1}') for update", "pkey"),
    ];
    for (arguments, rest, index) in cases {
        let explain = format!(
            "explain (costs off) select edited from failed_messages f
             where failed_message_matches(f, {arguments}) {rest}"
        );
        let plan: Vec<String> = sqlx::query_scalar(&explain).fetch_all(&mut *session).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains(&format!("using failed_messages_{index}")), "{plan}");
        assert!(!plan.contains("failed_message_matches"), "{plan}");
    }
}
