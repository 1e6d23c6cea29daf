//! Which deliveries can be acknowledged in one frame.

use std::{collections::BTreeSet, mem};

/// The unacknowledged deliveries of a channel, by delivery tag.
#[derive(Default)]
pub(super) struct AckTracker {
    /// Deliveries that are being processed.
    open: BTreeSet<u64>,
    /// Processed deliveries with an older open one: an acknowledgement up to their tags would include it.
    held: BTreeSet<u64>,
}

impl AckTracker {
    pub(super) fn register(&mut self, tag: u64) {
        self.open.insert(tag);
    }

    pub(super) fn finish(&mut self, tags: &[u64]) {
        for tag in tags {
            self.open.remove(tag);
            self.held.insert(*tag);
        }
    }

    /// This delivery was rejected, and is not to be acknowledged.
    pub(super) fn forget(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// The tag up to which every delivery is processed, if it is higher than the last time.
    pub(super) fn contiguous_ack(&mut self) -> Option<u64> {
        let last = match self.open.first() {
            Some(oldest_open) => self.held.range(..oldest_open).next_back().copied()?,
            None => self.held.last().copied()?,
        };
        self.held = self.held.split_off(&(last + 1));
        Some(last)
    }

    /// The number of processed deliveries that wait for an older one.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// The processed deliveries that wait for an older one; they are to be acknowledged one by one.
    pub(super) fn take_held(&mut self) -> BTreeSet<u64> {
        mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(open: &[u64], finished: &[u64]) -> AckTracker {
        let mut tracker = AckTracker::default();
        open.iter().chain(finished).for_each(|tag| tracker.register(*tag));
        tracker.finish(finished);
        tracker
    }

    #[test]
    fn one_acknowledgement_covers_what_is_older_than_every_open_delivery() {
        let mut tags = tracker(&[3, 7], &[1, 2, 4, 5]);
        assert_eq!(tags.contiguous_ack(), Some(2));
        assert_eq!(tags.contiguous_ack(), None);
        tags.finish(&[3]);
        assert_eq!(tags.contiguous_ack(), Some(5));
        assert_eq!(tracker(&[], &[4, 9]).contiguous_ack(), Some(9));
        assert_eq!(tracker(&[1], &[2]).contiguous_ack(), None);
    }

    #[test]
    fn an_open_delivery_that_is_forgotten_is_not_acknowledged() {
        let mut tags = tracker(&[1, 3], &[2, 4]);
        tags.forget(3);
        assert_eq!(tags.contiguous_ack(), None);
        tags.forget(1);
        assert_eq!(tags.contiguous_ack(), Some(4), "the tag of a finished delivery");
        let mut last = tracker(&[3], &[2]);
        last.forget(3);
        assert_eq!(last.contiguous_ack(), Some(2));
    }

    #[test]
    fn held_deliveries_are_taken_once() {
        let mut tags = tracker(&[1], &[2, 4]);
        assert_eq!((tags.contiguous_ack(), tags.held()), (None, 2));
        assert_eq!(tags.take_held(), BTreeSet::from([2, 4]));
        assert_eq!((tags.held(), tags.take_held().len()), (0, 0));
    }
}
