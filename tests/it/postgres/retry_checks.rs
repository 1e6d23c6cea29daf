//! Whether a copy with a retry mark may be handled: only the current one of a message that is being retried.

use allocation::ports::{
    failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _, OperatorAction},
    queue::{QueueName, RetryMark},
    store::RetryCheck,
};
use uuid::Uuid;

use crate::harness::Database;

use super::{RETRYING, STATUSES, operator};

async fn mark(db: &Database, id: i64, generation: i64) -> RetryMark {
    let secret = db.row(id).await.column("secret").as_str().unwrap().parse().unwrap();
    RetryMark { failed_message_id: id, generation, secret }
}

async fn check(db: &Database, queue: QueueName, marks: &[RetryMark]) -> Vec<RetryCheck> {
    let mut tx = db.store().begin(queue).await.unwrap();
    let checks = tx.check_retries(marks).await.unwrap();
    tx.rollback().await;
    checks
}

/// Every status, the generations around the row's, which is 4, the right secret and another, the right queue and another.
#[tokio::test]
async fn a_mark_is_current_outdated_or_unknown() {
    let db = Database::new().await;
    for (status, columns) in STATUSES {
        let id = db.failed(status, columns).await;
        for generation in [1, 3, 4, 5] {
            let genuine = mark(&db, id, generation).await;
            let forged = RetryMark { secret: Uuid::nil(), ..genuine };
            let current = status == "retrying" && generation == 4;
            let expected = if current { RetryCheck::Current } else { RetryCheck::Outdated };
            let case = format!("{status}, generation {generation}");
            assert_eq!(check(&db, QueueName::Orders, &[genuine]).await, [expected], "{case}");
            assert_eq!(
                check(&db, QueueName::Orders, &[forged]).await,
                [RetryCheck::Unknown],
                "{case}, forged"
            );
            assert_eq!(
                check(&db, QueueName::Stock, &[genuine]).await,
                [RetryCheck::Unknown],
                "{case}, stock"
            );
        }
    }
}

#[tokio::test]
async fn several_marks_are_answered_in_their_order() {
    let db = Database::new().await;
    let (one, two) = (db.failed("m1", RETRYING).await, db.failed("m2", RETRYING).await);
    let (first, second) = (mark(&db, one, 4).await, mark(&db, two, 4).await);
    let swapped = RetryMark { secret: first.secret, ..second };
    let missing = RetryMark { failed_message_id: -1, ..first };
    let old = RetryMark { generation: 3, ..first };
    let marks = [second, old, missing, first, swapped, first];
    let expected = [
        RetryCheck::Current,
        RetryCheck::Outdated,
        RetryCheck::Unknown,
        RetryCheck::Current,
        RetryCheck::Unknown,
        RetryCheck::Current,
    ];
    assert_eq!(check(&db, QueueName::Orders, &marks).await, expected);
}

/// An edit, a discard, or whatever an operator does comes before or after the copy, never between check and commit.
#[tokio::test]
async fn a_message_whose_copy_was_checked_is_held_against_operators() {
    let db = Database::new().await;
    let id = db.failed("m1", RETRYING).await;
    let current = mark(&db, id, 4).await;
    let mut tx = db.begin().await;
    assert_eq!(tx.check_retries(&[current]).await.unwrap(), [RetryCheck::Current]);
    let ledger = db.ledger();
    let action = tokio::spawn(async move {
        ledger.apply(OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator()).await
    });
    db.wait_until_blocked(1).await;
    tx.rollback().await;
    assert_eq!(action.await.unwrap().unwrap(), [(id, ActionResult::Applied)]);
}
