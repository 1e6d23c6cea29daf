//! Whether the consumers of this process get on with their work.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

/// All lanes of a process.
#[derive(Clone, Default)]
pub struct Watchdog {
    lanes: Arc<Mutex<Vec<Weak<LaneStatus>>>>,
}

/// What one lane is at.
pub struct LaneStatus {
    queue: &'static str,
    busy_since: Mutex<Option<Instant>>,
}

impl Watchdog {
    /// A lane that begins now; it is forgotten when it drops its pulse.
    #[must_use]
    pub fn lane(&self, queue: &'static str) -> Arc<LaneStatus> {
        let lane_status = Arc::new(LaneStatus { queue, busy_since: Mutex::new(None) });
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Arc::downgrade(&lane_status));
        lane_status
    }

    /// The queues of lanes that have been busy with the same thing for longer.
    #[must_use]
    pub fn stalled_lanes(&self, longer_than: Duration) -> Vec<&'static str> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck =
            |lane_status: &Arc<LaneStatus>| lane_status.busy_for().is_some_and(|busy| busy > longer_than);
        lanes.iter().filter_map(Weak::upgrade).filter(stuck).map(|lane_status| lane_status.queue).collect()
    }
}

impl LaneStatus {
    /// Something new is in hand; or it is the same, and its server is waited for.
    pub fn busy(&self) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Nothing is in hand.
    pub fn idle(&self) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn busy_for(&self) -> Option<Duration> {
        self.busy_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_stuck_while_it_is_busy_with_one_thing() {
        let watchdog = Watchdog::default();
        let (busy, idle, gone) = (watchdog.lane("orders"), watchdog.lane("stock"), watchdog.lane("orders"));
        gone.busy();
        drop(gone);
        busy.busy();
        idle.busy();
        idle.idle();
        assert_eq!(watchdog.stalled_lanes(Duration::ZERO), ["orders"]);
        assert!(watchdog.stalled_lanes(Duration::from_mins(1)).is_empty());
    }
}
