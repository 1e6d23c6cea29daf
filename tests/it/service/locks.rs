//! Rows that another session of the database has locked: only the commands that need them are postponed, and no attempt is
//! counted.

use std::time::Duration;

use allocation::{ports::queue::QueueName, service::received::ReceivedMessage};
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{HandleAll as _, command};

use super::fakes::{Call, Reply, ScriptedStore, awaited, batch, bus, conflict, line, names, redelivered};

const STOCK: QueueName = QueueName::Stock;
const ORDERS: QueueName = QueueName::Orders;

/// Two products with stock.
async fn with_products() -> ScriptedStore {
    let store = ScriptedStore::default();
    let mut batches = [batch("lamp", "LAMP"), batch("vase", "VASE")];
    bus(&store).handle_all(STOCK, &mut batches).await.unwrap();
    store
}

fn lines() -> [ReceivedMessage; 4] {
    [line("m1", "LAMP", 1), line("m2", "VASE", 1), line("m3", "LAMP", 1), line("m4", "VASE", 1)]
}

/// The counted attempts of everything that was recorded.
fn attempts(store: &ScriptedStore) -> Vec<u32> {
    store.failures().iter().map(|failure| failure.attempts).collect()
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_locked_product_are_postponed_and_the_others_handled() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), lines());
    store.set_locked(&["LAMP"]);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["postponed", "handled", "postponed", "handled"]);
    // The lock is known: nothing waits for it again.
    let begin = Instant::now();
    let mut later = [line("m5", "LAMP", 1), line("m6", "VASE", 1)];
    let outcomes = bus.handle_all(ORDERS, &mut later).await.unwrap();
    assert_eq!(names(&outcomes), ["postponed", "handled"]);
    assert!(begin.elapsed() < Duration::from_millis(60), "{:?}", begin.elapsed());
    assert_eq!(attempts(&store), [0; 3]);
    store.set_locked(&[]);
    let outcomes = bus.handle_all(ORDERS, &mut lines()).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "duplicate", "handled", "duplicate"]);
}

/// A batch of the product needs the same row as its other batches.
#[tokio::test(start_paused = true)]
async fn a_known_lock_of_a_product_is_not_awaited_again_for_another_batch() {
    let store = with_products().await;
    let bus = bus(&store);
    store.set_locked(&["LAMP"]);
    for (id, other, longest) in [("m1", "m2", 1_100), ("m3", "m4", 60)] {
        let begin = Instant::now();
        let mut messages = [batch(id, "LAMP"), batch(other, "VASE")];
        let outcomes = bus.handle_all(STOCK, &mut messages).await.unwrap();
        assert_eq!(names(&outcomes), ["postponed", "handled"]);
        assert!(begin.elapsed() < Duration::from_millis(longest), "{id}: {:?}", begin.elapsed());
    }
}

/// For example a line, or a row of the read model: which command needs it is not known before it is written.
#[tokio::test(start_paused = true)]
async fn another_locked_row_postpones_only_the_commands_of_its_product() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), lines());
    store.set_rows_locked(&["LAMP"]);
    let outcomes = bus.handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["postponed", "handled", "postponed", "handled"]);
    assert_eq!(attempts(&store), [0; 2]);
}

#[tokio::test(start_paused = true)]
async fn no_command_overtakes_a_postponed_one_with_its_key() {
    let store = with_products().await;
    let bus = bus(&store);
    store.set_locked(&["LAMP"]);
    let change = |id: &str| command(id, "change_batch_quantity", &json!({ "batchref": "b-m1", "qty": 5 }));
    let mut messages = [batch("m1", "LAMP"), change("m2"), batch("m3", "VASE")];
    let outcomes = bus.handle_all(STOCK, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["postponed", "waits", "handled"]);
    store.set_locked(&[]);
    let outcomes = bus.handle_all(STOCK, &mut [change("m4")]).await.unwrap();
    assert_eq!(names(&outcomes), ["waits"], "the batch is created first");
}

#[tokio::test(start_paused = true)]
async fn a_postponed_message_has_no_unfinished_start() {
    let store = with_products().await;
    let (bus, mut messages) = (bus(&store), [redelivered(line("m1", "LAMP", 1))]);
    store.set_unfinished_starts(ORDERS, "m1", 1).await;
    store.set_locked(&["LAMP"]);
    assert_eq!(names(&bus.handle_all(ORDERS, &mut messages).await.unwrap()), ["postponed"]);
    assert_eq!(store.unfinished_starts(ORDERS, "m1").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_is_told_of_the_lock() {
    let store = with_products().await;
    store.set_locked(&["LAMP"]);
    let mut messages = [awaited(line("m1", "LAMP", 1)), awaited(line("m2", "VASE", 1))];
    let outcomes = bus(&store).handle_all(ORDERS, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["reported", "handled"]);
    assert_eq!(store.failures(), []);
}

/// For example of a deadlock again and again.
#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_and_a_lasting_one_postpones_the_command() {
    let store = ScriptedStore::default();
    store.set_next_replies(Call::Commit, vec![Reply::Fails(conflict()); 6]);
    let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m1", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["handled"]);
    assert_eq!(store.failures(), []);
    store.set_next_replies(Call::Commit, vec![Reply::Fails(conflict()); 7]);
    let outcomes = bus(&store).handle_all(ORDERS, &mut [batch("m2", "LAMP")]).await.unwrap();
    assert_eq!(names(&outcomes), ["postponed"]);
    assert_eq!(attempts(&store), [0]);
}
