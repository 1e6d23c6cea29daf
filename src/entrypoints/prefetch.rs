//! How many deliveries a subscription may have in flight, so that their bytes stay within a limit.
//!
//! The broker limits deliveries by number only, and a subscription's number is fixed. So a subscription begins with a few
//! deliveries, and is replaced by one with another number once the size of the messages is known.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The limits of the unacknowledged deliveries of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchLimits {
    /// Their number while the size of the messages is unknown.
    pub initial: u16,
    /// Their number if the messages are small.
    pub max: u16,
    /// Their bytes. A single message may have more.
    pub bytes: usize,
}

/// The deliveries of a subscription that are not acknowledged.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl InFlight {
    /// A message was delivered. Returns the number and the bytes of all deliveries in flight.
    pub(super) fn add(&self, bytes: usize) -> (usize, usize) {
        (
            self.messages.fetch_add(1, Ordering::Relaxed) + 1,
            self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes,
        )
    }

    /// A delivery was acknowledged.
    pub(super) fn remove(&self, bytes: usize) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The change that a subscription needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    /// More deliveries in flight would fit.
    Larger,
    /// The deliveries in flight have too many bytes.
    Smaller,
}

/// The number of deliveries in flight of the current subscription and of its successor.
#[derive(Debug)]
pub(super) struct AdaptivePrefetch {
    limits: PrefetchLimits,
    current: u16,
    /// Messages of this subscription, and their bytes.
    received: (usize, usize),
}

impl AdaptivePrefetch {
    pub(super) fn new(limits: PrefetchLimits) -> Self {
        Self { limits, current: limits.initial.clamp(1, limits.max), received: (0, 0) }
    }

    /// The number for the next subscription.
    pub(super) fn begin(&mut self) -> u16 {
        self.received = (0, 0);
        self.current
    }

    /// A message was delivered; `in_flight` are all unacknowledged deliveries with their bytes.
    pub(super) fn delivered(&mut self, bytes: usize, in_flight: (usize, usize)) -> Option<Resize> {
        self.received = (self.received.0 + 1, self.received.1 + bytes);
        if in_flight.0 > 1 && in_flight.1 > self.limits.bytes {
            let fitting = self.fitting(in_flight).min(self.current - 1).max(1);
            return (fitting < self.current).then(|| self.resize(fitting, Resize::Smaller));
        }
        let (received, current) = (self.received.0, usize::from(self.current));
        // A queue with few messages needs no more, and one message does not show the size of the others.
        if received < current || in_flight.0 * 2 < current {
            return None;
        }
        let fitting = self.fitting(self.received);
        (usize::from(fitting) >= current * 2).then(|| self.resize(fitting, Resize::Larger))
    }

    /// The number of messages of the average size that have half of the allowed bytes.
    fn fitting(&self, (messages, bytes): (usize, usize)) -> u16 {
        let average = (bytes / messages).max(1);
        u16::try_from(self.limits.bytes / 2 / average).unwrap_or(u16::MAX).min(self.limits.max)
    }

    fn resize(&mut self, number: u16, resize: Resize) -> Resize {
        self.current = number;
        resize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PrefetchLimits = PrefetchLimits { initial: 16, max: 2000, bytes: 8_000_000 };

    /// Delivers messages of one size, none of which is acknowledged, until the subscription is replaced.
    fn deliver(prefetch: &mut AdaptivePrefetch, size: usize) -> Option<(usize, Resize)> {
        let number = usize::from(prefetch.begin());
        (1..=number).find_map(|n| prefetch.delivered(size, (n, n * size)).map(|resize| (n, resize)))
    }

    #[test]
    fn small_messages_soon_have_the_full_number() {
        let mut prefetch = AdaptivePrefetch::new(LIMITS);
        assert_eq!(deliver(&mut prefetch, 200), Some((16, Resize::Larger)));
        assert_eq!(prefetch.begin(), 2000);
        assert_eq!(deliver(&mut prefetch, 200), None);
    }

    #[test]
    fn large_messages_have_a_number_that_fits_and_keeps() {
        let mut prefetch = AdaptivePrefetch::new(LIMITS);
        deliver(&mut prefetch, 200);
        assert_eq!(deliver(&mut prefetch, 261_000), Some((31, Resize::Smaller)));
        assert_eq!(prefetch.begin(), 15);
        assert_eq!(deliver(&mut prefetch, 261_000), None);
        // Nor does the number grow while all of them are acknowledged at once.
        prefetch.begin();
        assert!((0..1000).all(|_| prefetch.delivered(261_000, (15, 15 * 261_000)).is_none()));
    }

    #[test]
    fn messages_above_the_limit_are_delivered_one_by_one() {
        let mut prefetch = AdaptivePrefetch::new(LIMITS);
        assert_eq!(deliver(&mut prefetch, 9_000_000), Some((2, Resize::Smaller)));
        assert_eq!(prefetch.begin(), 1);
        assert_eq!(deliver(&mut prefetch, 9_000_000), None);
    }

    #[test]
    fn a_queue_with_few_messages_keeps_its_subscription() {
        let mut prefetch = AdaptivePrefetch::new(LIMITS);
        prefetch.begin();
        assert!((0..1000).all(|_| prefetch.delivered(200, (1, 200)).is_none()));
    }

    #[test]
    fn a_burst_of_large_messages_does_not_limit_later_ones() {
        let mut prefetch = AdaptivePrefetch::new(LIMITS);
        assert_eq!(deliver(&mut prefetch, 3_000_000), Some((3, Resize::Smaller)));
        assert_eq!(deliver(&mut prefetch, 200), Some((1, Resize::Larger)));
        assert_eq!(prefetch.begin(), 2000);
    }
}
