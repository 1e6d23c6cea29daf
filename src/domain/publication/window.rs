//! How many events are in flight together, and which.

use std::time::Instant;

use super::{
    outbox_row::{OutboxRow, PublishOutcome},
    prefix::ConfirmedPrefix,
    throttle::{Throttle, ThrottleChange},
};

/// Selects the rows that are published together, and adapts to their outcomes.
///
/// The window shrinks while one of its rows closes the channel, so that this row is found soon, and grows again
/// afterwards. Events that are nacked are throttled by name, and never overtaken by later events of their SKU.
pub struct PublishWindow {
    limit: u32,
    size: u32,
    throttle: Throttle,
}

/// What the outcomes of one window mean.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishReport {
    /// The rows that may be removed from the outbox.
    pub confirmed: ConfirmedPrefix,
    /// The event names whose throttling began or ended.
    pub throttle_changes: Vec<ThrottleChange>,
}

impl PublishWindow {
    /// A window of at most `limit` rows, which it has at first.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, size: limit, throttle: Throttle::default() }
    }

    /// How many rows may be in flight now.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// SKUs whose next event may not be published now. Their rows need not be read: they would fill the window.
    #[must_use]
    pub fn blocked_skus(&self, now: Instant) -> Vec<String> {
        self.throttle.blocked_skus(now)
    }

    /// The event names that were nacked when they were last tried, in order.
    #[must_use]
    pub fn nacked_names(&self) -> Vec<String> {
        self.throttle.nacked_names()
    }

    /// The earliest time at which a throttled event may be published; `None` if there is none that has to wait.
    #[must_use]
    pub fn next_try(&self, now: Instant) -> Option<Instant> {
        self.throttle.next_try(now)
    }

    /// The rows that may be published now, of the oldest [`size`](Self::size) rows of the outbox.
    pub fn select(&mut self, rows: Vec<OutboxRow>, now: Instant) -> Vec<OutboxRow> {
        self.throttle.select(rows, self.size, now)
    }

    /// Adapts to the outcomes of rows that were published together.
    pub fn learn(&mut self, published: &[(OutboxRow, PublishOutcome)], now: Instant) -> PublishReport {
        let interrupted = published.iter().any(|(_, outcome)| outcome.broker_error().is_some());
        self.size =
            if interrupted { (self.size / 2).max(1) } else { self.size.saturating_mul(2).min(self.limit) };
        PublishReport {
            confirmed: ConfirmedPrefix::of(published),
            throttle_changes: self.throttle.learn(published, self.limit, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox_row::row;
    use super::*;

    #[test]
    fn the_window_shrinks_while_a_row_closes_the_channel_and_grows_afterwards() {
        let (mut window, now) = (PublishWindow::new(8), Instant::now());
        let mut size_after = |outcome: PublishOutcome| {
            window.learn(&[(row(1, "allocated", "a"), outcome)], now);
            window.size()
        };
        let unknown = || PublishOutcome::Unknown("channel closed".into());
        assert_eq!([unknown(), unknown(), unknown(), unknown()].map(&mut size_after), [4, 2, 1, 1]);
        let nacked = PublishOutcome::Nacked("full".into());
        assert_eq!([PublishOutcome::Confirmed, nacked].map(&mut size_after), [2, 4]);
        assert_eq!([PublishOutcome::Unroutable, PublishOutcome::Confirmed].map(&mut size_after), [8, 8]);
    }

    #[test]
    fn a_nacked_event_blocks_its_sku_and_what_is_confirmed_may_be_removed() {
        let (mut window, now) = (PublishWindow::new(8), Instant::now());
        let published = [
            (row(1, "allocated", "a"), PublishOutcome::Nacked("full".into())),
            (row(2, "out_of_stock", "b"), PublishOutcome::Confirmed),
        ];
        let report = window.learn(&published, now);
        assert_eq!(report.confirmed.ids, [2]);
        let started = ThrottleChange::Started { event: "allocated".into(), reason: "full".into() };
        assert_eq!(report.throttle_changes, [started]);
        assert_eq!(window.blocked_skus(now), ["a"]);
        assert_eq!(window.nacked_names(), ["allocated"]);
        assert!(window.next_try(now).is_some_and(|next_try| next_try > now));
        let rows = vec![row(1, "allocated", "a"), row(3, "deallocated", "c")];
        assert_eq!(window.select(rows, now), [row(3, "deallocated", "c")]);
    }
}
