//! Which queue takes which message type: the one table behind bindings, decoding and operator edits.

use super::queue::QueueName;

/// A message type and the queue that it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The message type, which is also its routing key.
    pub kind: &'static str,
    /// The exchange that messages of this type are published to, without the namespace.
    pub exchange: &'static str,
    /// The only queue whose consumers handle this type.
    pub queue: QueueName,
}

impl Route {
    const fn new(kind: &'static str, exchange: &'static str, queue: QueueName) -> Self {
        Self { kind, exchange, queue }
    }
}

/// Every message type that this service handles.
pub const ROUTES: [Route; 5] = [
    Route::new("allocate", "commands", QueueName::Orders),
    Route::new("deallocate", "commands", QueueName::Orders),
    Route::new("create_batch", "commands", QueueName::Stock),
    Route::new("change_batch_quantity", "commands", QueueName::Stock),
    Route::new("out_of_stock", "events", QueueName::Notifications),
];

/// The queue that handles messages of a type; none for an unknown type.
#[must_use]
pub fn queue_of(kind: &str) -> Option<QueueName> {
    ROUTES.iter().find(|route| route.kind == kind).map(|route| route.queue)
}

/// The name of the types that this service does not handle, where types are counted.
pub const OTHER_TYPE: &str = "other";

/// The type if this service handles it, otherwise [`OTHER_TYPE`]: senders can choose any number of types.
#[must_use]
pub fn counted_type(kind: &str) -> &'static str {
    ROUTES.iter().find(|route| route.kind == kind).map_or(OTHER_TYPE, |route| route.kind)
}

/// The routes that lead to a queue.
pub fn routes_to(queue: QueueName) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| route.queue == queue)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::Command;

    #[test]
    fn every_command_is_bound_to_one_queue() {
        let commands = ROUTES.iter().filter(|route| route.exchange == "commands");
        let names: Vec<_> = commands.map(|route| route.kind).collect();
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), Command::NAMES.into_iter().collect());
        assert_eq!(names.len(), Command::NAMES.len(), "no command has two routes");
    }

    #[test]
    fn a_type_is_found_by_its_exact_name() {
        assert_eq!(queue_of("create_batch"), Some(QueueName::Stock));
        assert_eq!(queue_of("out_of_stock"), Some(QueueName::Notifications));
        for unknown in ["", "Allocate", "allocated", "alloc"] {
            assert_eq!(queue_of(unknown), None, "{unknown:?}");
        }
        let to_orders: Vec<_> = routes_to(QueueName::Orders).map(|route| route.kind).collect();
        assert_eq!(to_orders, ["allocate", "deallocate"]);
    }
}
