//! Retry marks: only the current copy of a retrying message may be handled.

use allocation::{
    domain::OperatorAction,
    ports::{
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _},
        queue::{QueueName, RetryMark},
        store::RetryCheck,
    },
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

/// The row has generation 4. Every status is checked, with other generations, a wrong secret and a wrong queue.
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
async fn the_checks_of_several_marks_are_in_their_order() {
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

/// An operator action takes effect before the check of a copy or after its commit.
#[tokio::test]
async fn checking_a_copy_locks_its_failed_message() {
    let db = Database::new().await;
    let id = db.failed("m1", RETRYING).await;
    let current = mark(&db, id, 4).await;
    let mut tx = db.begin().await;
    assert_eq!(tx.check_retries(&[current]).await.unwrap(), [RetryCheck::Current]);
    let failed_messages = db.failed_messages();
    let action = tokio::spawn(async move {
        failed_messages
            .apply(&OperatorAction::Retry, &[id], &FailedMessageFilter::default(), &operator())
            .await
    });
    db.wait_until_blocked(1).await;
    tx.rollback().await;
    assert_eq!(action.await.unwrap().unwrap(), [(id, ActionResult::Applied)]);
}
