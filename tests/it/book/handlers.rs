//! The tests of the handlers, on the in-memory adapters.

use std::sync::Arc;

use allocation::{
    adapters::memory::{MemoryStore, RecordingNotifier},
    domain::Product,
    ports::queue::QueueName,
    service::{message_bus::MessageBus, notifications::NotificationHandler, outcome::CommandOutcome},
};

use crate::harness::{
    Command, HandleAll as _, allocate, bus, change_batch_quantity, command, create_batch,
    notification_handler,
};

use super::{handle, outcome, reference, shipment, sku};

/// The message bus and the handler of notifications with in-memory adapters.
struct InMemorySystem {
    store: MemoryStore,
    mails: RecordingNotifier,
    bus: MessageBus,
    notifications: NotificationHandler,
}

impl InMemorySystem {
    async fn after(commands: &[Command]) -> Self {
        let (store, mails) = (MemoryStore::default(), RecordingNotifier::default());
        let bus = bus(Arc::new(store.clone()));
        let notifications = notification_handler(Arc::new(store.clone()), mails.clone());
        handle(&bus, commands).await;
        Self { store, mails, bus, notifications }
    }

    async fn product(&self, name: &str) -> Option<Product> {
        let state = self.store.state().await;
        state.product(&sku(name))
    }

    async fn available(&self, name: &str, batch: &str) -> u32 {
        let product = self.product(name).await.expect("the product exists");
        product.batch(&reference(batch)).expect("the batch exists").available()
    }

    /// The names of the events, in order.
    async fn events(&self) -> Vec<String> {
        let state = self.store.state().await;
        state.outbox.iter().map(|event| event.name.clone()).collect()
    }
}

/// U5 of the book.
#[tokio::test]
async fn a_line_is_not_allocated_to_a_batch_of_another_product() {
    let stock = [create_batch("b-1", "LAMP", 100), create_batch("b-2", "VASE", 0)];
    let system = InMemorySystem::after(&stock).await;
    handle(&system.bus, &[allocate("o-1", "VASE", 10)]).await;
    assert_eq!(system.available("LAMP", "b-1").await, 100);
    assert_eq!(system.product("VASE").await.unwrap().backordered(), 10);
}

/// U13 of the book.
#[tokio::test]
async fn the_first_batch_creates_its_product() {
    let system = InMemorySystem::after(&[]).await;
    assert_eq!(system.product("LAMP").await, None);
    handle(&system.bus, &[create_batch("b-1", "LAMP", 100)]).await;
    let product = system.product("LAMP").await.unwrap();
    assert!(product.batch(&reference("b-1")).is_some());
    assert_eq!(product.version(), 1);
}

/// U14 of the book.
#[tokio::test]
async fn a_second_batch_is_added_to_its_product() {
    let stock = [create_batch("b-1", "LAMP", 100), create_batch("b-2", "LAMP", 99)];
    let product = InMemorySystem::after(&stock).await.product("LAMP").await.unwrap();
    let references: Vec<_> = product.batches().iter().map(|batch| batch.reference.as_str()).collect();
    assert_eq!(references, ["b-1", "b-2"]);
}

/// U15 of the book.
#[tokio::test]
async fn a_handled_line_reduces_the_available_quantity() {
    let system =
        InMemorySystem::after(&[create_batch("b-1", "LAMP", 100), allocate("o-1", "LAMP", 10)]).await;
    assert_eq!(system.available("LAMP", "b-1").await, 90);
}

/// U16 of the book.
#[tokio::test]
async fn a_line_of_an_unknown_product_is_rejected_by_name() {
    let system = InMemorySystem::after(&[create_batch("b-1", "LAMP", 100)]).await;
    match outcome(&system.bus, &allocate("o-1", "NO-SUCH-LAMP", 10)).await {
        CommandOutcome::Recorded(failure, _) => assert_eq!(failure.to_string(), "Invalid sku NO-SUCH-LAMP"),
        other => panic!("{other:?}"),
    }
    assert_eq!(system.product("NO-SUCH-LAMP").await, None);
}

/// U17 of the book.
#[tokio::test]
async fn a_handled_command_is_committed_and_recorded_in_the_inbox() {
    let line = allocate("o-1", "LAMP", 10);
    let system = InMemorySystem::after(&[create_batch("b-1", "LAMP", 100), line.clone()]).await;
    assert_eq!(system.store.state().await.view.len(), 1);
    assert_eq!(system.events().await, ["allocated"]);
    let again = outcome(&system.bus, &line).await;
    assert!(matches!(again, CommandOutcome::Duplicate), "{again:?}");
    assert_eq!(system.available("LAMP", "b-1").await, 90);
}

/// U18 of the book. The event is delivered to the notifications queue, possibly twice.
#[tokio::test]
async fn a_line_without_stock_causes_one_notification() {
    let system = InMemorySystem::after(&[create_batch("b-1", "LAMP", 9), allocate("o-1", "LAMP", 10)]).await;
    let event = system.store.state().await.outbox[0].clone();
    let body = serde_json::from_str(&event.body).unwrap();
    for first in [true, false] {
        let notification = command(&event.event_id.to_string(), &event.name, &body);
        let outcomes =
            system.notifications.handle_all(QueueName::Notifications, &mut [notification]).await.unwrap();
        match outcomes[..] {
            [CommandOutcome::Handled] if first => {}
            [CommandOutcome::Duplicate] if !first => {}
            _ => panic!("{outcomes:?}"),
        }
    }
    let sent = system.mails.taken();
    let [notification] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(notification.subject, "Out of stock for LAMP");
    assert!(notification.text.contains("Order o-1 waits for 10"), "{}", notification.text);
}

/// U19 of the book.
#[tokio::test]
async fn a_changed_batch_has_the_new_quantity() {
    let system = InMemorySystem::after(&[create_batch("b-1", "LAMP", 100)]).await;
    handle(&system.bus, &[change_batch_quantity("b-1", 50)]).await;
    assert_eq!(system.available("LAMP", "b-1").await, 50);
    assert_eq!(system.events().await, [""; 0]);
}

/// U20 and R9 of the book.
#[tokio::test]
async fn a_reduced_batch_loses_a_line_to_the_next_batch() {
    let stock = [create_batch("b-1", "LAMP", 50), shipment("b-2", "LAMP", 50, "2031-01-01")];
    let system = InMemorySystem::after(&stock).await;
    handle(&system.bus, &[allocate("o-1", "LAMP", 20), allocate("o-2", "LAMP", 20)]).await;
    assert_eq!((system.available("LAMP", "b-1").await, system.available("LAMP", "b-2").await), (10, 50));
    handle(&system.bus, &[change_batch_quantity("b-1", 25)]).await;
    assert_eq!((system.available("LAMP", "b-1").await, system.available("LAMP", "b-2").await), (5, 30));
    assert_eq!(system.events().await, ["allocated", "allocated", "deallocated", "allocated"]);
}
