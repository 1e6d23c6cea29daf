//! Decorates the ports of this process.

use std::sync::Arc;

use crate::ports::{
    failed_messages::FailedMessages,
    outbox::{Outbox, Publisher},
    queue::Queues,
    store::Store,
};

use super::{
    failed_messages::FaultyFailedMessages, outbox::FaultyOutbox, plan, points::CrashPoint,
    publisher::FaultyPublisher, queues::FaultyQueues, store::FaultyStore,
};

pub(crate) fn store(inner: impl Store + 'static) -> Arc<dyn Store> {
    Arc::new(FaultyStore::new(Arc::new(inner)))
}

pub(crate) fn queues(inner: impl Queues + 'static) -> Arc<dyn Queues> {
    Arc::new(FaultyQueues(inner))
}

pub(crate) fn outbox(inner: Arc<dyn Outbox>) -> Arc<dyn Outbox> {
    Arc::new(FaultyOutbox(inner))
}

pub(crate) fn publisher(inner: impl Publisher + 'static) -> Arc<dyn Publisher> {
    Arc::new(FaultyPublisher(inner))
}

pub(crate) fn failed_messages(inner: impl FailedMessages) -> impl FailedMessages {
    FaultyFailedMessages(inner)
}

/// Between a handler and its reactions; no port is called there.
pub(crate) fn mid_handler(message_id: &str) {
    plan::pass_with(CrashPoint::WorkerMidHandler, Some(message_id));
}
