//! Back-off for events that the broker nacks because a subscriber's queue is full.
//!
//! The queues of an event depend on its name alone. A nack therefore concerns all events of that name, whatever their
//! SKU; and each try delivers another copy to every subscriber whose queue is not full. Events of a nacked name are
//! tried one at a time, after growing pauses; after a success, twice as many each time, as in TCP's slow start.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::outbox_row::{OutboxRow, PublishOutcome};

/// The pause after the first nack.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// The throttled event names.
#[derive(Default)]
pub(super) struct Throttle {
    names: HashMap<String, ThrottledName>,
}

struct ThrottledName {
    backoff: Duration,
    /// No event of this name is published before.
    next_try: Instant,
    /// How many are published together then.
    allowed: usize,
    /// SKUs whose next event has this name. No later event of theirs may be published before it.
    skus: HashSet<String>,
}

/// An event name whose throttling began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThrottleChange {
    /// An event of this name was nacked.
    Started {
        /// The name.
        event: String,
        /// Why it was nacked.
        reason: String,
    },
    /// Events of this name are confirmed again.
    Ended {
        /// The name.
        event: String,
    },
}

impl ThrottledName {
    fn new(now: Instant) -> Self {
        Self { backoff: MIN_BACKOFF / 2, next_try: now, allowed: 1, skus: HashSet::new() }
    }

    fn back_off(&mut self, now: Instant) {
        self.allowed = 1;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        self.next_try = now + self.backoff;
    }
}

impl Throttle {
    /// The event names that were nacked when they were last tried, in order.
    pub(super) fn nacked_names(&self) -> Vec<String> {
        // A success resets the back-off.
        let nacked = self.names.iter().filter(|(_, state)| state.backoff >= MIN_BACKOFF);
        let mut names: Vec<_> = nacked.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// SKUs whose next event may not be published now.
    pub(super) fn blocked_skus(&self, now: Instant) -> Vec<String> {
        let waiting = self.names.values().filter(|name| name.next_try > now);
        waiting.flat_map(|name| name.skus.iter().cloned()).collect()
    }

    /// The earliest time to come at which a throttled name may be tried.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.names.values().map(|name| name.next_try).filter(|next_try| *next_try > now).min()
    }

    /// The rows that may be published now; of a SKU with a throttled event only the first, so that nothing overtakes it.
    /// If there are fewer than `window` rows, the outbox has no others: throttled names without a row are forgotten.
    pub(super) fn select(&mut self, mut rows: Vec<OutboxRow>, window: u32, now: Instant) -> Vec<OutboxRow> {
        if self.names.is_empty() {
            return rows;
        }
        let complete = rows.len() < window as usize;
        let mut selected: HashMap<String, usize> = HashMap::new();
        let mut ended: HashSet<String> = HashSet::new();
        rows.retain(|row| {
            if ended.contains(&row.sku) {
                return false;
            }
            if self.is_blocked(&row.sku) {
                ended.insert(row.sku.clone());
            }
            let Some(name) = self.names.get_mut(&row.name) else { return true };
            let selected = selected.entry(row.name.clone()).or_default();
            if name.next_try > now || *selected >= name.allowed {
                name.skus.insert(row.sku.clone());
                ended.insert(row.sku.clone());
                return false;
            }
            *selected += 1;
            true
        });
        self.names.retain(|name, state| !complete || state.next_try > now || selected.contains_key(name));
        rows
    }

    fn is_blocked(&self, sku: &str) -> bool {
        self.names.values().any(|name| name.skus.contains(sku))
    }

    /// Adapts to outcomes. A name of which `window` events may be published together is no longer throttled.
    pub(super) fn learn(
        &mut self,
        published: &[(OutboxRow, PublishOutcome)],
        window: u32,
        now: Instant,
    ) -> Vec<ThrottleChange> {
        let mut changes = Vec::new();
        let (mut nacked_names, mut nacked_skus) = (HashSet::new(), HashSet::new());
        for (row, outcome) in published {
            match outcome {
                PublishOutcome::Nacked(reason) => {
                    changes.extend(self.block(row, reason, now));
                    nacked_skus.insert(row.sku.as_str());
                    if nacked_names.insert(row.name.as_str())
                        && let Some(name) = self.names.get_mut(&row.name)
                    {
                        name.back_off(now);
                    }
                }
                // Confirmed behind a nacked event of its SKU: it is published again after it.
                PublishOutcome::Confirmed | PublishOutcome::Unroutable
                    if nacked_skus.contains(row.sku.as_str()) => {}
                PublishOutcome::Confirmed | PublishOutcome::Unroutable => {
                    for name in self.names.values_mut() {
                        name.skus.remove(&row.sku);
                    }
                }
                PublishOutcome::Rejected(_) | PublishOutcome::Unknown(_) => {}
            }
        }
        self.raise_allowed(published, &nacked_names, window, &mut changes);
        changes
    }

    /// Blocks the SKU of a nacked row.
    fn block(&mut self, row: &OutboxRow, reason: &str, now: Instant) -> Option<ThrottleChange> {
        if let Some(name) = self.names.get_mut(&row.name) {
            name.skus.insert(row.sku.clone());
            return None;
        }
        let name = self.names.entry(row.name.clone()).or_insert_with(|| ThrottledName::new(now));
        name.skus.insert(row.sku.clone());
        Some(ThrottleChange::Started { event: row.name.clone(), reason: reason.to_owned() })
    }

    /// Allows twice as many events of the names of which some were accepted and none was nacked.
    fn raise_allowed(
        &mut self,
        published: &[(OutboxRow, PublishOutcome)],
        nacked: &HashSet<&str>,
        window: u32,
        changes: &mut Vec<ThrottleChange>,
    ) {
        let accepted = published.iter().filter(|(_, outcome)| outcome.is_accepted());
        let accepted: HashSet<_> = accepted.map(|(row, _)| row.name.as_str()).collect();
        for event in accepted.difference(nacked) {
            let Some(name) = self.names.get_mut(*event) else { continue };
            name.backoff = MIN_BACKOFF / 2;
            name.allowed *= 2;
            if name.allowed > window as usize {
                self.names.remove(*event);
                changes.push(ThrottleChange::Ended { event: (*event).to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox_row::row;
    use super::*;

    const WINDOW: u32 = 8;

    fn nacked() -> PublishOutcome {
        PublishOutcome::Nacked("full".into())
    }

    fn ids(rows: &[OutboxRow]) -> Vec<i64> {
        rows.iter().map(|row| row.id).collect()
    }

    /// One throttle, its clock, and rows that all have the same outcome.
    struct Harness {
        throttle: Throttle,
        now: Instant,
    }

    impl Harness {
        fn new() -> Self {
            Self { throttle: Throttle::default(), now: Instant::now() }
        }

        fn learn(&mut self, rows: &[OutboxRow], outcome: &PublishOutcome) -> Vec<ThrottleChange> {
            let published: Vec<_> = rows.iter().map(|row| (row.clone(), outcome.clone())).collect();
            self.throttle.learn(&published, WINDOW, self.now)
        }

        fn select(&mut self, rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
            self.throttle.select(rows, WINDOW, self.now)
        }
    }

    fn of_different_skus(count: i64) -> Vec<OutboxRow> {
        (0..count).map(|id| row(id, "allocated", &format!("sku-{id}"))).collect()
    }

    /// 200 SKUs, and a queue that is full for an hour: other subscribers get few copies.
    #[test]
    fn a_queue_that_stays_full_is_tried_with_one_event_after_growing_pauses() {
        let mut harness = Harness::new();
        let end = harness.now + Duration::from_hours(1);
        let mut copies = 0;
        while harness.now < end {
            let selected = harness.throttle.select(of_different_skus(200), 1000, harness.now);
            copies += selected.len();
            harness.learn(&selected, &nacked());
            harness.now = harness.throttle.next_try(harness.now).unwrap();
        }
        assert!((200 + 60..200 + 75).contains(&copies), "{copies} copies");
    }

    #[test]
    fn other_names_are_published_while_one_is_throttled_and_nothing_overtakes_a_nacked_event() {
        let mut harness = Harness::new();
        harness.learn(&[row(1, "allocated", "a")], &nacked());
        assert_eq!(harness.throttle.nacked_names(), ["allocated"]);
        let rows = || {
            vec![
                row(1, "allocated", "a"),
                row(2, "deallocated", "a"),
                row(3, "deallocated", "b"),
                row(4, "allocated", "b"),
                row(5, "deallocated", "b"),
                row(6, "out_of_stock", "c"),
            ]
        };
        assert_eq!(ids(&harness.select(rows())), [3, 6]);
        let mut blocked = harness.throttle.blocked_skus(harness.now);
        blocked.sort_unstable();
        assert_eq!(blocked, ["a", "b"]);

        harness.now += MIN_BACKOFF;
        assert!(harness.throttle.blocked_skus(harness.now).is_empty());
        assert_eq!(ids(&harness.select(rows())), [1, 3, 6], "one of each blocked SKU");
    }

    #[test]
    fn each_success_doubles_the_allowed_events_until_the_throttling_ends() {
        let mut harness = Harness::new();
        let rows = of_different_skus(100);
        let started = ThrottleChange::Started { event: "allocated".into(), reason: "full".into() };
        assert_eq!(harness.learn(&rows, &nacked()), [started]);
        assert_eq!(harness.learn(&rows[..1], &nacked()), [], "it is throttled already");
        harness.now += MIN_BACKOFF * 2;
        let (mut sizes, mut changes) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let selected = harness.throttle.select(rows.clone(), 1000, harness.now);
            sizes.push(selected.len());
            changes.extend(harness.learn(&selected, &PublishOutcome::Confirmed));
        }
        assert_eq!(sizes, [1, 2, 4, 8, 100]);
        assert_eq!(changes, [ThrottleChange::Ended { event: "allocated".into() }]);
    }

    #[test]
    fn a_throttled_name_without_rows_is_forgotten() {
        let mut harness = Harness::new();
        harness.learn(&[row(1, "allocated", "a")], &nacked());
        let begin = harness.now;
        harness.now += MIN_BACKOFF;
        assert_eq!(harness.select(vec![]), []);
        assert_eq!(harness.throttle.next_try(begin), None);
    }

    #[test]
    fn a_throttled_name_is_kept_while_it_waits_or_may_have_rows_behind_the_window() {
        let mut harness = Harness::new();
        harness.learn(&[row(1, "allocated", "a")], &nacked());
        let begin = harness.now;
        assert_eq!(harness.select(vec![]), []);
        assert!(harness.throttle.next_try(begin).is_some(), "it waits");
        harness.now += MIN_BACKOFF;
        let full: Vec<_> = (0..i64::from(WINDOW)).map(|id| row(id, "out_of_stock", "b")).collect();
        assert_eq!(harness.select(full).len(), WINDOW as usize);
        assert!(harness.throttle.next_try(begin).is_some(), "there may be more rows");
    }

    #[test]
    fn an_accepted_event_ends_the_back_off_and_frees_its_sku() {
        let mut harness = Harness::new();
        let first = row(1, "allocated", "a");
        harness.learn(std::slice::from_ref(&first), &nacked());
        harness.now += MIN_BACKOFF;
        harness.learn(&[first], &PublishOutcome::Confirmed);
        assert_eq!(harness.throttle.nacked_names(), [] as [&str; 0]);
        let others = vec![row(2, "deallocated", "a"), row(3, "deallocated", "a")];
        assert_eq!(ids(&harness.select(others)), [2, 3]);
    }

    #[test]
    fn the_next_try_is_in_the_future() {
        let mut harness = Harness::new();
        let (begin, first) = (harness.now, row(1, "allocated", "a"));
        harness.learn(std::slice::from_ref(&first), &nacked());
        harness.now += MIN_BACKOFF;
        harness.learn(&[row(2, "out_of_stock", "b")], &nacked());
        assert_eq!(harness.throttle.next_try(begin), Some(begin + MIN_BACKOFF));
        harness.learn(&[first], &PublishOutcome::Confirmed);
        assert_eq!(harness.throttle.next_try(harness.now), Some(begin + 2 * MIN_BACKOFF));
    }

    #[test]
    fn a_sku_stays_blocked_when_an_event_in_flight_behind_its_nacked_event_is_confirmed() {
        let mut harness = Harness::new();
        let rows = [row(1, "allocated", "a"), row(2, "deallocated", "a")];
        let published = [(rows[0].clone(), nacked()), (rows[1].clone(), PublishOutcome::Confirmed)];
        harness.throttle.learn(&published, WINDOW, harness.now);
        assert_eq!(harness.throttle.blocked_skus(harness.now), ["a"]);
        harness.now += MIN_BACKOFF;
        let selected = harness.select(rows.to_vec());
        assert_eq!(ids(&selected), [1]);
        harness.learn(&selected, &PublishOutcome::Confirmed);
        assert_eq!(ids(&harness.select(rows[1..].to_vec())), [2]);
    }
}
