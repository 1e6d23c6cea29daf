//! The deliveries of a subscription that are not acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::ports::queue::FlowControl;

/// The limits of the unacknowledged deliveries of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchLimits {
    /// Their number. It is the same for every subscription to a queue: returned messages keep their order only if the next
    /// subscription may have all of them.
    pub messages: u16,
    /// Their bytes. A single message may have more.
    pub bytes: usize,
}

/// The unacknowledged deliveries of a subscription, which receives no more than fit into the limit.
#[derive(Default)]
pub(super) struct InFlight {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    limit: usize,
    flow_control: Option<Arc<dyn FlowControl>>,
}

impl InFlight {
    /// The deliveries of a new subscription, which was allowed to receive `limit` bytes.
    pub(super) fn new(limit: usize, flow_control: Option<Arc<dyn FlowControl>>) -> Self {
        Self { limit, flow_control, ..Self::default() }
    }

    /// A message was delivered.
    pub(super) fn add(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A delivery was acknowledged: as many bytes may be received.
    pub(super) fn remove(&self, bytes: usize) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(flow_control) = &self.flow_control {
            flow_control.allow(bytes);
        }
    }

    /// The number of deliveries.
    pub(super) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    /// Waits until all allowed bytes were received, and allows more if less are in flight: a message takes more bytes on the
    /// connection than it has, and a single one may be larger than the limit. Requires that no received message waits to be
    /// [added](Self::add).
    pub(super) async fn exhausted(&self) {
        let Some(flow_control) = &self.flow_control else { return std::future::pending().await };
        flow_control.exhausted().await;
        let remaining = self.limit.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if remaining > 0 {
            flow_control.allow(remaining);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct RecordingFlowControl {
        allowed: Mutex<Vec<usize>>,
        exhausted: Notify,
    }

    #[async_trait]
    impl FlowControl for RecordingFlowControl {
        fn allow(&self, bytes: usize) {
            self.allowed.lock().unwrap().push(bytes);
        }

        async fn exhausted(&self) {
            self.exhausted.notified().await;
        }
    }

    #[test]
    fn acknowledged_bytes_may_be_received_again() {
        let flow_control = Arc::new(RecordingFlowControl::default());
        let in_flight = InFlight::new(100, Some(flow_control.clone()));
        in_flight.add(30);
        in_flight.add(60);
        in_flight.remove(60);
        assert_eq!(*flow_control.allowed.lock().unwrap(), [60]);
    }

    #[tokio::test]
    async fn what_is_not_in_flight_may_be_received_once_nothing_more_is_allowed() {
        let flow_control = Arc::new(RecordingFlowControl::default());
        let in_flight = InFlight::new(100, Some(flow_control.clone()));
        in_flight.add(70);
        for (added, allowed) in [(0, vec![30]), (50, vec![30])] {
            in_flight.add(added);
            flow_control.exhausted.notify_one();
            in_flight.exhausted().await;
            assert_eq!(*flow_control.allowed.lock().unwrap(), allowed);
        }
    }
}
