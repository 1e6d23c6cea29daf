//! RabbitMQ: queues, publishers and topology.
//!
//! Consumers and publishers never share a connection: a broker with a resource alarm stops reading from connections that
//! publish, and acknowledgements on them would not arrive.

mod ack_tracker;
mod alarm;
mod certificates;
mod confirm_channel;
mod connection;
mod consumer;
mod inspector;
mod properties;
#[cfg(any(test, fuzzing))]
mod properties_check;
mod publisher;
mod queue_observer;
mod queue_states;
mod received_message;
mod retry_properties;
mod screen;
mod screened;
mod stored_properties;
mod throttle;
mod topology;

pub use connection::RabbitConfig;
pub use consumer::RabbitQueues;
pub use inspector::RabbitInspector;
#[cfg(any(test, fuzzing))]
pub(crate) use properties_check::check_properties;
pub use publisher::{RabbitCommandSender, RabbitPublisher};
pub use queue_observer::RabbitQueueObserver;
pub use queue_states::RabbitQueueReader;
pub use received_message::RabbitRetryDelivery;
pub use topology::RabbitTopology;
