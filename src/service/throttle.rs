//! Events that the broker refuses because a subscriber's queue is full.
//!
//! Which queues an event goes to depends on its name alone. So a refusal says something about all events of that name,
//! whatever their SKU; and each try of one gives another copy to every subscriber whose queue is not full. Events of a
//! refused name are therefore tried one at a time, after pauses that grow; once one is taken, twice as many each time, as
//! in TCP's slow start.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::ports::outbox::{OutboxRow, PublishOutcome};

/// The pause after the first refusal.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The names of events that are being refused.
#[derive(Default)]
pub(super) struct Throttle {
    names: HashMap<String, Refusal>,
}

struct Refusal {
    pause: Duration,
    /// Nothing of this name is tried before.
    next_try: Instant,
    /// How many are tried together then.
    allowed: usize,
    /// SKUs whose next event has this name. Nothing of theirs may be published before it.
    skus: HashSet<String>,
}

impl Throttle {
    /// SKUs of which nothing may be published now, so that theirs do not fill the window.
    pub(super) fn blocked(&self, now: Instant) -> Vec<String> {
        let waiting = self.names.values().filter(|refusal| refusal.next_try > now);
        waiting.flat_map(|refusal| refusal.skus.iter().cloned()).collect()
    }

    /// When something is to be tried that is not tried now.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.names.values().map(|refusal| refusal.next_try).filter(|next_try| *next_try > now).min()
    }

    /// The rows that may be published now. Of a SKU whose event was refused it is one, so that nothing overtakes it. Fewer
    /// than `window` rows are all there are.
    pub(super) fn select(&mut self, mut rows: Vec<OutboxRow>, window: u32, now: Instant) -> Vec<OutboxRow> {
        let all = rows.len() < window as usize;
        if self.names.is_empty() {
            return rows;
        }
        let mut selected: HashMap<String, usize> = HashMap::new();
        let mut ended: HashSet<String> = HashSet::new();
        rows.retain(|row| {
            if ended.contains(&row.sku) {
                return false;
            }
            if self.is_refused(&row.sku) {
                ended.insert(row.sku.clone());
            }
            let Some(refusal) = self.names.get_mut(&row.name) else { return true };
            let selected = selected.entry(row.name.clone()).or_default();
            if refusal.next_try > now || *selected >= refusal.allowed {
                refusal.skus.insert(row.sku.clone());
                ended.insert(row.sku.clone());
                return false;
            }
            *selected += 1;
            true
        });
        self.names.retain(|name, refusal| !all || refusal.next_try > now || selected.contains_key(name));
        rows
    }

    fn is_refused(&self, sku: &str) -> bool {
        self.names.values().any(|refusal| refusal.skus.contains(sku))
    }

    /// Learns from what was published. With `window` events in flight the broker is believed to take everything.
    pub(super) fn learn(
        &mut self,
        rows: &[OutboxRow],
        outcomes: &[PublishOutcome],
        window: u32,
        now: Instant,
    ) {
        let (mut refused, mut refused_skus) = (HashSet::new(), HashSet::new());
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                PublishOutcome::Nacked(reason) => {
                    let refusal = self.names.entry(row.name.clone()).or_insert_with(|| {
                        warn!(
                            event = row.name,
                            reason, "events are refused, a queue of a subscriber is full; they wait"
                        );
                        Refusal { pause: SHORTEST_PAUSE / 2, next_try: now, allowed: 1, skus: HashSet::new() }
                    });
                    refusal.skus.insert(row.sku.clone());
                    refused_skus.insert(row.sku.as_str());
                    if refused.insert(row.name.as_str()) {
                        refusal.allowed = 1;
                        refusal.pause = (refusal.pause * 2).min(LONGEST_PAUSE);
                        refusal.next_try = now + refusal.pause;
                    }
                }
                // What was in flight behind a refused event has overtaken it, and goes once more after it.
                PublishOutcome::Confirmed | PublishOutcome::Unroutable
                    if refused_skus.contains(row.sku.as_str()) => {}
                PublishOutcome::Confirmed | PublishOutcome::Unroutable => {
                    for refusal in self.names.values_mut() {
                        refusal.skus.remove(&row.sku);
                    }
                }
                PublishOutcome::Rejected(_) | PublishOutcome::Unknown(_) => {}
            }
        }
        self.grow(rows, outcomes, &refused, window);
    }

    /// Names of which something was taken and nothing refused may send more the next time.
    fn grow(
        &mut self,
        rows: &[OutboxRow],
        outcomes: &[PublishOutcome],
        refused: &HashSet<&str>,
        window: u32,
    ) {
        let taken = |(_, outcome): &(&OutboxRow, &PublishOutcome)| {
            matches!(outcome, PublishOutcome::Confirmed | PublishOutcome::Unroutable)
        };
        let taken: HashSet<_> =
            rows.iter().zip(outcomes).filter(taken).map(|(row, _)| row.name.as_str()).collect();
        for name in taken.difference(refused) {
            let Some(refusal) = self.names.get_mut(*name) else { continue };
            refusal.pause = SHORTEST_PAUSE / 2;
            refusal.allowed *= 2;
            if refusal.allowed > window as usize {
                info!(event = name, "events are taken again");
                self.names.remove(*name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const WINDOW: u32 = 8;

    fn row(id: i64, name: &str, sku: &str) -> OutboxRow {
        OutboxRow {
            id,
            event_id: Uuid::nil(),
            name: name.into(),
            sku: sku.into(),
            sequence: id,
            body: String::new(),
            causation_id: String::new(),
            correlation_id: String::new(),
            traceparent: None,
            committed_at: 0,
        }
    }

    fn nacked() -> PublishOutcome {
        PublishOutcome::Nacked("full".into())
    }

    fn ids(rows: &[OutboxRow]) -> Vec<i64> {
        rows.iter().map(|row| row.id).collect()
    }

    /// Two hundred SKUs, and a queue that takes nothing for an hour: other subscribers get few copies.
    #[test]
    fn a_queue_that_stays_full_is_tried_less_and_less_often_and_with_one_event() {
        let (mut throttle, mut now) = (Throttle::default(), Instant::now());
        let end = now + Duration::from_hours(1);
        let rows: Vec<_> = (0..200).map(|id| row(id, "allocated", &format!("sku-{id}"))).collect();
        let mut copies = 0;
        while now < end {
            let selected = throttle.select(rows.clone(), 1000, now);
            copies += selected.len();
            throttle.learn(&selected, &vec![nacked(); selected.len()], WINDOW, now);
            now = throttle.next_try(now).unwrap();
        }
        assert!((200 + 60..200 + 75).contains(&copies), "{copies} copies");
    }

    #[test]
    fn while_a_name_is_refused_other_names_go_and_nothing_overtakes_a_refused_event() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.learn(&[row(1, "allocated", "a")], &[nacked()], WINDOW, now);
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
        assert_eq!(ids(&throttle.select(rows(), WINDOW, now)), [3, 6]);
        let mut blocked = throttle.blocked(now);
        blocked.sort_unstable();
        assert_eq!(blocked, ["a", "b"]);

        let later = now + SHORTEST_PAUSE;
        assert!(throttle.blocked(later).is_empty());
        assert_eq!(ids(&throttle.select(rows(), WINDOW, later)), [1, 3, 6], "one of each refused SKU");
    }

    #[test]
    fn after_a_success_twice_as_many_are_tried_and_after_enough_of_them_everything() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let rows: Vec<_> = (0..100).map(|id| row(id, "allocated", &format!("sku-{id}"))).collect();
        throttle.learn(&rows, &vec![nacked(); rows.len()], WINDOW, now);
        let now = now + SHORTEST_PAUSE;
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let selected = throttle.select(rows.clone(), 1000, now);
            sizes.push(selected.len());
            throttle.learn(&selected, &vec![PublishOutcome::Confirmed; selected.len()], WINDOW, now);
        }
        assert_eq!(sizes, [1, 2, 4, 8, 100]);
    }

    #[test]
    fn a_refusal_of_which_nothing_is_left_is_forgotten() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.learn(&[row(1, "allocated", "a")], &[nacked()], WINDOW, now);
        assert_eq!(throttle.select(vec![], WINDOW, now + SHORTEST_PAUSE), []);
        assert_eq!(throttle.next_try(now), None);
    }

    #[test]
    fn the_next_try_is_one_that_is_still_to_come() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let (one, other) = (row(1, "allocated", "a"), row(2, "out_of_stock", "b"));
        throttle.learn(std::slice::from_ref(&one), &[nacked()], WINDOW, now);
        throttle.learn(&[other], &[nacked()], WINDOW, now + SHORTEST_PAUSE);
        assert_eq!(throttle.next_try(now), Some(now + SHORTEST_PAUSE));
        throttle.learn(&[one], &[PublishOutcome::Confirmed], WINDOW, now + SHORTEST_PAUSE);
        assert_eq!(throttle.next_try(now + SHORTEST_PAUSE), Some(now + 2 * SHORTEST_PAUSE));
    }

    #[test]
    fn a_sku_stays_refused_when_what_was_in_flight_behind_its_event_is_taken() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let rows = [row(1, "allocated", "a"), row(2, "deallocated", "a")];
        throttle.learn(&rows, &[nacked(), PublishOutcome::Confirmed], WINDOW, now);
        assert_eq!(throttle.blocked(now), ["a"]);
        let selected = throttle.select(rows.to_vec(), WINDOW, now + SHORTEST_PAUSE);
        assert_eq!(ids(&selected), [1]);
        throttle.learn(&selected, &[PublishOutcome::Confirmed], WINDOW, now);
        assert_eq!(ids(&throttle.select(rows[1..].to_vec(), WINDOW, now)), [2]);
    }
}
