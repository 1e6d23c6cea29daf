//! The equivalents of the tests of the book "Architecture Patterns with Python".

mod handlers;
mod stored;
mod table;

use allocation::{
    domain::{BatchRef, Sku},
    service::{message_bus::MessageBus, outcome::CommandOutcome},
};
use serde_json::json;

use crate::harness::{Command, HandleAll as _, command, create_batch, queue_of};

pub(super) fn sku(name: &str) -> Sku {
    Sku::new(name).unwrap()
}

pub(super) fn reference(name: &str) -> BatchRef {
    BatchRef::new(name).unwrap()
}

/// A batch with an arrival date.
pub(super) fn shipment(reference: &str, sku: &str, qty: u32, eta: &str) -> Command {
    create_batch(reference, sku, qty).with("eta", json!(eta))
}

/// Handles one command.
pub(super) async fn outcome(bus: &MessageBus, given: &Command) -> CommandOutcome {
    let received = command(&given.message_id, given.kind, &given.body);
    bus.handle_all(queue_of(given), &mut [received]).await.expect("the store is available").remove(0)
}

/// Handles commands one after the other; all of them succeed.
pub(super) async fn handle(bus: &MessageBus, commands: &[Command]) {
    for given in commands {
        let outcome = outcome(bus, given).await;
        assert!(matches!(outcome, CommandOutcome::Handled), "{given:?}: {outcome:?}");
    }
}
