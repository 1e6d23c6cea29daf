//! Failed attempts that a unit of work records, and failed messages that it resolves.

use std::time::Duration;

use allocation::{
    domain::{NewAttempt, Reason, RetryDecision},
    ports::{queue::QueueName, store::ChangeSet},
};
use serde_json::{Value, json};

use crate::harness::Database;

use super::{RETRYING, STATUSES, failed_message_key, failure, message_key};

const LATER: RetryDecision = RetryDecision::Retry(Duration::from_hours(1));

async fn record(db: &Database, failure: NewAttempt) {
    let work = ChangeSet { failures: vec![failure], ..ChangeSet::default() };
    db.commit(QueueName::Orders, &[], work).await;
}

/// The recorded attempts of all messages.
async fn attempts(db: &Database) -> String {
    db.text(
        "select string_agg(concat_ws(', ', generation, attempt, host, duration_ms, error, chain), '; ')
         from failed_attempts",
    )
    .await
}

#[tokio::test]
async fn the_first_failure_of_a_message_creates_a_complete_row() {
    let db = Database::new().await;
    record(&db, failure(failed_message_key(Some("m1"), "allocate", 1), 0, LATER)).await;
    let id = db.count("select id from failed_messages").await;
    let row = "select concat_ws(', ', queue, message_id, type, convert_from(body, 'UTF8'), properties,
                   convert_from(original, 'UTF8'), status, reason, error, error_pattern, error_group, attempts,
                   generation, round(extract(epoch from due_at - last_failed_at)), first_failed_at = last_failed_at,
                   edited) from failed_messages";
    let expected = "orders, m1, allocate, a body, {\"a\": 1}, properties, retrying, it failed at 7, it failed at, \
                    group-9, 2, 1, 3600, t, f";
    assert_eq!(db.text(row).await, expected);
    let row = db.row(id).await;
    for column in ["reason", "published_at", "ended_at", "held_because"] {
        assert_eq!(row.column(column), &Value::Null, "{column}");
    }
    assert_eq!(row.column("fingerprint"), &json!(format!("\\x{}", "01".repeat(16))));
    assert_eq!(attempts(&db).await, "1, 2, host-1, 1234, it failed at 7, {\"a cause\",\"its cause\"}");
}

/// The changes of a row by another attempt. The content is the first recorded one.
fn another_attempt(before: &Value, status: &str, reason: Option<&str>, due_at: Option<&str>) -> Value {
    let all = json!({
        "status": status, "reason": reason, "due_at": due_at, "error": "it failed at 7",
        "error_pattern": "it failed at", "error_group": "group-9", "attempts": 2, "generation": 5,
        "last_failed_at": "now", "published_at": null, "ended_at": null
    });
    let Value::Object(all) = all else { unreachable!("it is an object") };
    all.into_iter().filter(|(name, value)| before[name] != *value).collect()
}

/// The row has generation 4. Generation 0 is a message from a sender: it may be a redelivery, and is not recorded while the
/// row is retrying.
#[tokio::test]
async fn a_further_failure_is_recorded_if_its_copy_is_current_or_a_sender_sent_it_again() {
    let db = Database::new().await;
    for (status, columns) in STATUSES {
        for (generation, recorded) in [
            (4, status == "retrying"),
            (0, !["retrying", "waiting"].contains(&status)),
            (1, false),
            (3, false),
            (5, false),
        ] {
            for next in [LATER, RetryDecision::Dead(Reason::CrashLoop)] {
                let case = format!("{status}, generation {generation}, {next:?}");
                let columns =
                    format!("{columns}, published_at = now() - interval '1 hour', held_because = 'x'");
                let id = db.failed("m1", &columns).await;
                let before = db.row(id).await;
                record(&db, failure(failed_message_key(Some("m1"), "allocate", 1), generation, next)).await;
                let after = db.row(id).await;
                let expected = match (recorded, next) {
                    (false, _) => json!({}),
                    (true, RetryDecision::Retry(_)) => {
                        another_attempt(&before.columns(), "retrying", None, Some("in 3600 s"))
                    }
                    (true, RetryDecision::Postpone(_) | RetryDecision::Wait) => {
                        unreachable!("the test has none")
                    }
                    (true, RetryDecision::Dead(_)) => {
                        another_attempt(&before.columns(), "dead", Some("crash_loop"), None)
                    }
                };
                assert_eq!(after.changes_since(&before), expected, "{case}");
                let attempt = "5, 2, host-1, 1234, it failed at 7, {\"a cause\",\"its cause\"}";
                assert_eq!(attempts(&db).await, if recorded { attempt } else { "" }, "{case}");
                assert_eq!(db.count("select count(*) from failed_messages").await, 1, "{case}");
                db.execute("delete from failed_messages").await;
            }
        }
    }
}

/// The key of a message is its queue, id, type and body; without an id it is the rest.
#[tokio::test]
async fn messages_with_different_keys_have_their_own_rows() {
    let db = Database::new().await;
    let keys = [
        failed_message_key(Some("m1"), "allocate", 1),
        failed_message_key(Some("m1"), "allocate", 2),
        failed_message_key(Some("m1"), "deallocate", 1),
        failed_message_key(Some("m2"), "allocate", 1),
        failed_message_key(None, "allocate", 1),
        failed_message_key(None, "allocate", 2),
        failed_message_key(None, "deallocate", 1),
    ];
    let work = |generation| ChangeSet {
        failures: keys.iter().map(|key| failure(key.clone(), generation, LATER)).collect(),
        ..ChangeSet::default()
    };
    for queue in [QueueName::Orders, QueueName::Stock] {
        db.commit(queue, &[], work(0)).await;
        db.commit(queue, &[], work(1)).await;
    }
    let rows = "select count(*) from failed_messages where generation = 2 and attempts = 2";
    assert_eq!(db.count(rows).await, 14);
    assert_eq!(db.count("select count(*) from failed_messages").await, 14);
}

/// The handled message, and messages with the same id and another body, type or queue.
const ROWS: [&str; 4] = [
    "queue = 'orders'",
    "fingerprint = decode(repeat('02', 16), 'hex')",
    "type = 'deallocate'",
    "queue = 'stock'",
];

/// A message without an id may fail twice in one unit of work: its key is its body.
#[tokio::test]
async fn many_failures_of_one_unit_of_work_are_recorded_in_their_order() {
    const DISTINCT: usize = 450;
    let db = Database::new().await;
    let mut failures: Vec<_> = (0..DISTINCT)
        .map(|number| {
            let next = if number % 2 == 0 { LATER } else { RetryDecision::Dead(Reason::Rejected) };
            let key = failed_message_key(Some(&format!("m{number:03}")), "allocate", 1);
            NewAttempt { host: format!("host-{number}"), ..failure(key, 0, next) }
        })
        .collect();
    for _ in 0..2 {
        let key = failed_message_key(None, "allocate", 2);
        failures.push(failure(key, 0, RetryDecision::Dead(Reason::MissingMessageId)));
    }
    db.commit(QueueName::Orders, &[], ChangeSet { failures, ..ChangeSet::default() }).await;

    let ids = db.text("select string_agg(message_id, ' ' order by id) from failed_messages").await;
    let expected: Vec<_> = (0..DISTINCT).map(|number| format!("m{number:03}")).collect();
    assert_eq!(ids, expected.join(" "));
    let unlike = "select count(*) from failed_messages f join failed_attempts a on a.failed_message_id = f.id
                  where a.host <> 'host-' || substr(f.message_id, 2)::int
                     or (f.status = 'retrying') <> (substr(f.message_id, 2)::int % 2 = 0)";
    assert_eq!(db.count(unlike).await, 0);
    assert_eq!(
        db.count("select count(*) from failed_attempts").await,
        i64::try_from(DISTINCT + 2).unwrap_or(0)
    );
    assert_eq!(db.count("select generation from failed_messages where message_id is null").await, 2);
}

#[tokio::test]
async fn handling_a_message_resolves_its_failed_message_and_no_other() {
    let db = Database::new().await;
    // Messages that other queues or earlier transactions handled do not count.
    db.execute(
        "insert into inbox (queue, message_id, type, fingerprint)
         select queue, message_id, 'allocate', decode(repeat(body, 16), 'hex')
         from (values ('stock', '01'), ('notifications', '02')) as others (queue, body),
              unnest(array['was-dead', 'was-retrying', 'was-waiting', 'was-discarded', 'was-resolved']) as message_id
         union all values ('orders', 'earlier', 'allocate', decode(repeat('01', 16), 'hex'))",
    )
    .await;
    let mut rows = Vec::new();
    for (status, columns) in STATUSES {
        for (place, row) in ROWS.into_iter().enumerate() {
            let id = db.failed(&format!("was-{status}"), &format!("{columns}, {row}")).await;
            rows.push((status, place, db.row(id).await, id));
        }
        let id = db.failed("earlier", &format!("{columns}, type = '{status}'")).await;
        rows.push((status, ROWS.len(), db.row(id).await, id));
    }
    let keys = STATUSES.map(|(status, _)| message_key(&format!("was-{status}"), "allocate", 1));
    let handled = keys.iter().map(|key| key.message_id.clone()).collect();
    db.commit(QueueName::Orders, &keys, ChangeSet { handled, ..ChangeSet::default() }).await;
    for (status, place, before, id) in rows {
        let expected = match (place, status) {
            // A discarded one as well: its sender sent it again, and it was handled.
            (0, "dead" | "discarded") => json!({ "status": "resolved", "reason": null, "ended_at": "now" }),
            (0, "retrying") => json!({ "status": "resolved", "due_at": null, "ended_at": "now" }),
            (0, "waiting") => json!({ "status": "resolved", "ended_at": "now" }),
            _ => json!({}),
        };
        let row = ROWS.get(place).unwrap_or(&"handled earlier");
        assert_eq!(db.row(id).await.changes_since(&before), expected, "{status}, {row}");
    }
}

#[tokio::test]
async fn attempts_are_counted_per_message_and_only_while_it_is_retrying() {
    let db = Database::new().await;
    let retrying = RETRYING;
    db.failed("m1", &format!("{retrying}, attempts = 2")).await;
    db.failed("m1", &format!("{retrying}, attempts = 3, fingerprint = decode(repeat('02', 16), 'hex')"))
        .await;
    db.failed("m1", &format!("{retrying}, attempts = 4, type = 'deallocate'")).await;
    db.failed("m1", &format!("{retrying}, attempts = 5, queue = 'stock'")).await;
    db.failed("elsewhere", &format!("{retrying}, attempts = 6, queue = 'stock'")).await;
    db.failed("none", &format!("{retrying}, attempts = 7")).await;
    db.execute("update failed_messages set message_id = null where message_id = 'none'").await;
    for (status, columns) in STATUSES.into_iter().filter(|(status, _)| *status != "retrying") {
        db.failed(status, columns).await;
    }
    let keys = [
        (failed_message_key(Some("m1"), "deallocate", 1), 4),
        (failed_message_key(Some("resolved"), "allocate", 1), 0),
        (failed_message_key(None, "allocate", 1), 7),
        (failed_message_key(Some("elsewhere"), "allocate", 1), 0),
        (failed_message_key(Some("m1"), "allocate", 2), 3),
        (failed_message_key(Some("dead"), "allocate", 1), 0),
        (failed_message_key(Some("discarded"), "allocate", 1), 0),
        (failed_message_key(Some("unknown"), "allocate", 1), 0),
        (failed_message_key(Some("m1"), "allocate", 1), 2),
        (failed_message_key(None, "allocate", 2), 0),
        (failed_message_key(Some("m1"), "deallocate", 2), 0),
    ];
    let (keys, expected): (Vec<_>, Vec<u32>) = keys.into_iter().unzip();
    let mut tx = db.begin().await;
    assert_eq!(tx.failed_attempts(&keys).await.unwrap(), expected);
    tx.rollback().await;
}

/// Two workers cannot count the same attempt of a message.
#[tokio::test]
async fn counting_the_attempts_of_a_message_locks_it() {
    let db = Database::new().await;
    db.failed("m1", RETRYING).await;
    let keys = [failed_message_key(Some("m1"), "allocate", 1)];
    let mut first = db.begin().await;
    assert_eq!(first.failed_attempts(&keys).await.unwrap(), [3]);
    let mut second = db.begin().await;
    let asked = tokio::spawn(async move {
        let attempts = second.failed_attempts(&keys).await;
        second.rollback().await;
        attempts
    });
    db.wait_until_blocked(1).await;
    let failure =
        NewAttempt { attempts: 4, ..failure(failed_message_key(Some("m1"), "allocate", 1), 4, LATER) };
    first.commit(ChangeSet { failures: vec![failure], ..ChangeSet::default() }).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), [4]);
}
