//! The order of commands with one key within and across units of work.

use allocation::{
    ports::{error::StoreError, queue::QueueName},
    service::received::ReceivedMessage,
};
use serde_json::json;

use crate::harness::{HandleAll as _, command};

use super::fakes::{Call, Reply, ScriptedStore, awaited, batch, bus, names, redelivered};

const STOCK: QueueName = QueueName::Stock;

/// A change of the batch `b-m0`.
fn change(id: &str) -> ReceivedMessage {
    command(id, "change_batch_quantity", &json!({ "batchref": "b-m0", "qty": 5 }))
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_one_that_failed_in_the_same_unit_of_work() {
    let store = ScriptedStore::default();
    let mut messages = [change("m1"), change("m2"), batch("m3", "LAMP"), change("m4")];
    let outcomes = bus(&store).handle_all(STOCK, &mut messages).await.unwrap();
    assert_eq!(names(&outcomes), ["retry", "waits", "handled", "waits"]);
    let outcomes = bus(&store).handle_all(STOCK, &mut [batch("m0", "LAMP"), change("m5")]).await.unwrap();
    assert_eq!(names(&outcomes), ["handled", "waits"], "the creation of the batch does not wait");
}

/// What is recorded already is not recorded again, and the command of a sender that waits is accepted.
#[tokio::test(start_paused = true)]
async fn a_waiting_command_that_comes_again_is_a_duplicate() {
    let store = ScriptedStore::default();
    bus(&store).handle_all(STOCK, &mut [change("m1")]).await.unwrap();
    let mut messages = [change("m2"), awaited(change("m3"))];
    assert_eq!(names(&bus(&store).handle_all(STOCK, &mut messages).await.unwrap()), ["waits", "waits"]);
    let mut messages = [redelivered(change("m2")), awaited(change("m3"))];
    assert_eq!(
        names(&bus(&store).handle_all(STOCK, &mut messages).await.unwrap()),
        ["duplicate", "duplicate"]
    );
}

/// The worker of a dead message was killed before it acknowledged the delivery. A sender that sends it again wants it handled.
#[tokio::test(start_paused = true)]
async fn a_redelivered_dead_message_that_was_overtaken_stays_dead() {
    let store = ScriptedStore::default();
    bus(&store).handle_all(STOCK, &mut [batch("m0", "LAMP")]).await.unwrap();
    store.set_next_replies(Call::Load, [Reply::Fails(StoreError::InvalidData("invalid".into()))]);
    for (message, outcome) in [
        (change("m1"), "dead"),
        (change("m2"), "handled"),
        (redelivered(change("m1")), "duplicate"),
        (change("m1"), "handled"),
    ] {
        assert_eq!(names(&bus(&store).handle_all(STOCK, &mut [message]).await.unwrap()), [outcome]);
    }
}
