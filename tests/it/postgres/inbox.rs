//! The inbox: keys are per queue, and retention may remove a row while it is looked up.

use allocation::ports::{
    error::StoreError,
    queue::QueueName,
    store::{ChangeSet, InboxCheck},
};

use crate::harness::Database;

use super::message_key;

#[tokio::test]
async fn forgetting_a_message_in_one_queue_keeps_it_in_another() {
    let db = Database::new().await;
    let keys = [message_key("m1", "allocate", 1), message_key("m2", "allocate", 1)];
    db.commit(QueueName::Stock, &keys, ChangeSet::default()).await;
    let unhandled = ChangeSet { unhandled: vec!["m1".into()], ..ChangeSet::default() };
    db.commit(QueueName::Orders, &keys, unhandled).await;
    for (queue, expected) in [
        (QueueName::Stock, [InboxCheck::Duplicate, InboxCheck::Duplicate]),
        (QueueName::Orders, [InboxCheck::New, InboxCheck::Duplicate]),
    ] {
        let mut tx = db.store().begin(queue).await.unwrap();
        assert_eq!(tx.check_inbox(&keys).await.unwrap(), expected, "{queue:?}");
        tx.rollback().await;
    }
}

#[tokio::test]
async fn the_same_id_in_another_queue_is_another_message() {
    let db = Database::new().await;
    for (queue, body) in [(QueueName::Orders, 1), (QueueName::Stock, 2), (QueueName::Notifications, 3)] {
        db.commit(queue, &[message_key("m1", "allocate", body)], ChangeSet::default()).await;
    }
    for (queue, body) in [(QueueName::Orders, 1), (QueueName::Stock, 2), (QueueName::Notifications, 3)] {
        let mut tx = db.store().begin(queue).await.unwrap();
        let inbox_checks = tx.check_inbox(&[message_key("m1", "allocate", body)]).await.unwrap();
        assert_eq!(inbox_checks, [InboxCheck::Duplicate], "{queue:?}");
        tx.rollback().await;
    }
}

#[tokio::test]
async fn a_message_is_a_duplicate_if_type_and_body_are_equal() {
    let db = Database::new().await;
    db.commit(
        QueueName::Orders,
        &[message_key("m1", "allocate", 1), message_key("old", "allocate", 1)],
        ChangeSet::default(),
    )
    .await;
    db.execute("update inbox set type = null where message_id = 'old'").await;
    let cases = [
        (message_key("m1", "allocate", 1), InboxCheck::Duplicate),
        (message_key("m1", "allocate", 2), InboxCheck::BodyMismatch),
        (message_key("m1", "deallocate", 1), InboxCheck::BodyMismatch),
        (message_key("old", "deallocate", 1), InboxCheck::Duplicate),
        (message_key("old", "allocate", 2), InboxCheck::BodyMismatch),
        (message_key("new", "allocate", 1), InboxCheck::New),
    ];
    for (key, expected) in cases {
        let mut tx = db.begin().await;
        assert_eq!(tx.check_inbox(std::slice::from_ref(&key)).await.unwrap(), [expected], "{key:?}");
        tx.rollback().await;
    }
}

/// The message exists when it is inserted and is removed before it is looked up. It is not new: the inbox would not have
/// it, and another copy would be handled as well.
#[tokio::test]
async fn a_message_that_is_removed_while_it_is_looked_up_is_a_conflict_and_then_new() {
    let db = Database::new().await;
    let keys = [message_key("m1", "allocate", 1), message_key("m2", "allocate", 1)];
    db.commit(QueueName::Orders, &keys[..1], ChangeSet::default()).await;
    let gate = db.gate_after_inserts("inbox").await;
    let (mut tx, asked) = (db.begin().await, keys.clone());
    let look_up = tokio::spawn(async move {
        let inbox_checks = tx.check_inbox(&asked).await;
        tx.rollback().await;
        inbox_checks
    });
    db.wait_until_blocked(1).await;
    db.execute("delete from inbox where message_id = 'm1'").await;
    gate.open().await;
    let outcome = look_up.await.unwrap();
    assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");

    let mut tx = db.begin().await;
    assert_eq!(tx.check_inbox(&keys).await.unwrap(), [InboxCheck::New, InboxCheck::New]);
    tx.commit(ChangeSet::default()).await.unwrap();
    assert_eq!(db.count("select count(*) from inbox").await, 2);
}
