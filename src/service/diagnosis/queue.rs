//! The reasons of a queue, from what was observed.

use serde::Serialize;

use crate::ports::diagnosis::{BrokerQueue, Observed, QueueObservations};

use super::{
    consumers::queue_work,
    reason::{Finding, NotKnown, ReasonCode, Verdict},
    servers, work,
};

/// A minute, over which finished messages are counted. In seconds.
const COUNTED_SECONDS: f64 = 60.0;

/// Whether a queue moves, and why not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueDiagnosis {
    /// The full name of the queue.
    pub queue: String,
    /// Messages that are ready for delivery.
    pub ready: Option<u32>,
    /// Consumers.
    pub consumers: Option<u32>,
    /// Messages that processes have and have not acknowledged, with those of the dead-letter queue.
    pub unacknowledged: Option<u64>,
    /// Whether a message got an outcome within the last minute.
    pub moving: Option<bool>,
    /// Messages that got an outcome, over the last minute.
    pub handled_per_second: Option<f64>,
    /// When the queue is empty if nothing arrives, in seconds.
    pub empty_in_seconds: Option<f64>,
    /// The reasons that were found; the first one is the root cause.
    pub reasons: Vec<Finding>,
    /// The reasons that were ruled out.
    pub ruled_out: Vec<ReasonCode>,
    /// The reasons about which nothing is known.
    pub not_known: Vec<NotKnown>,
}

impl QueueDiagnosis {
    /// Whether it moves, or has nothing to do and nothing waits to be published.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let harmless = [ReasonCode::RetriesWaiting, ReasonCode::Busy, ReasonCode::Idle];
        let is_idle = self.has(ReasonCode::Idle);
        self.moving == Some(true)
            || is_idle && self.reasons.iter().all(|found| harmless.contains(&found.code))
    }

    /// Whether a reason was found.
    #[must_use]
    pub fn has(&self, code: ReasonCode) -> bool {
        self.reasons.iter().any(|found| found.code == code)
    }
}

/// Finds the reasons.
#[must_use]
pub fn diagnose(namespace: &str, observed: &QueueObservations) -> QueueDiagnosis {
    let (mut reasons, mut ruled_out, mut not_known) = (Vec::new(), Vec::new(), Vec::new());
    for code in ReasonCode::ALL.iter().copied() {
        match verdict(code, observed, &reasons) {
            Ok(Some(found)) => reasons.push(found),
            Ok(None) => ruled_out.push(code),
            Err(because) => not_known.push(NotKnown { code, because }),
        }
    }
    let moving = queue_work(observed).ok().map(|work| work.finished_last_minute > 0);
    if moving != Some(true) {
        // What stops the queue comes before what only delays events or retries.
        reasons.sort_by_key(|found| !found.code.stops_the_queue());
    }
    let (ready, consumers) = depth(&observed.broker_queue());
    let work = queue_work(observed).ok();
    let finished = work.as_ref().map(|work| work.finished_last_minute);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = finished.map(|finished| finished as f64 / COUNTED_SECONDS);
    QueueDiagnosis {
        queue: format!("{namespace}.{}", observed.queue.as_str()),
        ready,
        consumers,
        unacknowledged: work.as_ref().map(|work| work.unacknowledged),
        moving,
        handled_per_second: per_second,
        empty_in_seconds: match (ready, per_second) {
            (Some(0), _) => Some(0.0),
            (Some(ready), Some(rate)) if rate > 0.0 => Some(f64::from(ready) / rate),
            _ => None,
        },
        reasons,
        ruled_out,
        not_known,
    }
}

fn verdict(code: ReasonCode, observed: &QueueObservations, found: &[Finding]) -> Verdict {
    match code {
        ReasonCode::DatabaseAway => servers::database_away(observed),
        ReasonCode::BrokerAway => servers::broker_away(observed),
        ReasonCode::BrokerAlarm => servers::broker_alarm(observed),
        ReasonCode::QueueMissing => servers::queue_missing(observed),
        ReasonCode::SchemaDiffers => servers::schema_differs(observed),
        ReasonCode::StorageFull => servers::storage_full(observed),
        ReasonCode::NoWorker => work::no_worker(observed),
        ReasonCode::BreakingMessage => work::breaking_message(observed),
        ReasonCode::StuckHandler => work::stuck_handler(observed),
        ReasonCode::LockWait => work::lock_wait(observed),
        ReasonCode::MailAway => servers::mail_away(observed),
        ReasonCode::RelayMissing => work::relay_missing(observed),
        ReasonCode::EventRefused => work::event_refused(observed),
        ReasonCode::RetriesHeld => work::retries_held(observed),
        ReasonCode::RetriesWaiting => work::retries_waiting(observed),
        ReasonCode::Busy => work::busy(observed),
        ReasonCode::Idle => work::idle(observed),
        ReasonCode::Unexplained => work::unexplained(observed, found),
    }
}

fn depth(broker: &Observed<BrokerQueue>) -> (Option<u32>, Option<u32>) {
    match broker {
        Ok(BrokerQueue::Exists { ready, consumers }) => (Some(*ready), Some(*consumers)),
        Ok(BrokerQueue::Missing) | Err(_) => (None, None),
    }
}
