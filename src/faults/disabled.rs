//! The program without fault injection.

use std::sync::Arc;

use crate::ports::{
    failed_messages::FailedMessages,
    outbox::{Outbox, Publisher},
    queue::Queues,
    store::Store,
};

pub(crate) fn store(inner: impl Store + 'static) -> Arc<dyn Store> {
    Arc::new(inner)
}

pub(crate) fn queues(inner: impl Queues + 'static) -> Arc<dyn Queues> {
    Arc::new(inner)
}

pub(crate) fn outbox(inner: Arc<dyn Outbox>) -> Arc<dyn Outbox> {
    inner
}

pub(crate) fn publisher(inner: impl Publisher + 'static) -> Arc<dyn Publisher> {
    Arc::new(inner)
}

pub(crate) fn failed_messages(inner: impl FailedMessages) -> impl FailedMessages {
    inner
}

#[inline]
pub(crate) const fn mid_handler(_message_id: &str) {}
