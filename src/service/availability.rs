//! Unavailable servers: the error, and a log that reports each outage and each of its causes once, however many tasks
//! detect it.

use std::{
    collections::HashSet,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::ports::{
    answered::Answered,
    error::{NotifierError, StoreError, error_text},
    observer::{AvailabilityReport, Observer, Report, Server},
};

use super::{
    failure::{Failure, without_values},
    outcome::CommandOutcome,
};

/// A server is unavailable: the outcome of the messages is unknown, and no attempt is counted.
#[derive(Debug, thiserror::Error)]
pub enum ServerUnavailable {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The mail server.
    #[error(transparent)]
    Notifier(#[from] NotifierError),
}

/// Whether a server is unavailable, for the whole process.
pub struct AvailabilityLog {
    dependency: &'static str,
    outage: Mutex<Option<Outage>>,
    observed: Option<(Server, Arc<dyn Observer>)>,
}

impl fmt::Debug for AvailabilityLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dependency, outage, .. } = self;
        f.debug_struct("AvailabilityLog").field("dependency", dependency).field("outage", outage).finish()
    }
}

#[derive(Debug)]
struct Outage {
    begin: Instant,
    /// The causes that were logged, without their variable values.
    causes: HashSet<String>,
    /// The last error in the log, and when it was logged.
    logged: String,
    logged_at: Instant,
    /// When a part last found that it cannot use the server.
    reported_at: Instant,
}

/// An error with a known cause is logged no sooner: tasks may report several errors in turn.
const NEXT_ERROR_AFTER: Duration = Duration::from_secs(10);
/// The number of causes of one outage that are logged at once.
const MAX_CAUSES: usize = 10;

impl Outage {
    fn must_log(&mut self, error: &str, now: Instant) -> bool {
        let is_new = self.causes.len() < MAX_CAUSES && self.causes.insert(without_values(error));
        is_new || self.logged != error && now - self.logged_at >= NEXT_ERROR_AFTER
    }
}

impl AvailabilityLog {
    /// `dependency` names the server in the log: "database", "broker", "mail server".
    #[must_use]
    pub fn of(dependency: &'static str) -> Self {
        Self { dependency, outage: Mutex::new(None), observed: None }
    }

    /// The same for a server whose outages are reported.
    #[must_use]
    pub fn observed(dependency: &'static str, server: Server, observer: Arc<dyn Observer>) -> Self {
        Self { observed: Some((server, observer)), ..Self::of(dependency) }
    }

    /// It did not answer. Each cause is logged with its whole chain: a connection that was lost often hides why no other one
    /// can be used.
    pub fn down(&self, error: &dyn Error) {
        let (mut outage, dependency, now) = (self.outage(), self.dependency, Instant::now());
        let error = error_text(error);
        match &mut *outage {
            None => {
                warn!(dependency, error, "{dependency} unavailable, retrying");
                let causes = HashSet::from([without_values(&error)]);
                *outage =
                    Some(Outage { begin: now, causes, logged: error, logged_at: now, reported_at: now });
                self.report(false);
            }
            Some(outage) => {
                outage.reported_at = now;
                if outage.must_log(&error, now) {
                    warn!(dependency, error, "{dependency} still unavailable, with another error");
                    (outage.logged, outage.logged_at) = (error, now);
                }
            }
        }
    }

    /// It answered; a database also accepted a write. Logged if it was down.
    pub fn up(&self) {
        let mut current = self.outage();
        if let Some(outage) = current.take() {
            let lasted = outage.begin.elapsed();
            // With the lock, so that reports are in the order of what they report.
            self.report(true);
            drop(current);
            let outage_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            let dependency = self.dependency;
            info!(dependency, outage_ms, "{dependency} available again");
        }
    }

    /// Whether the last contact with it failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.outage().is_some()
    }

    fn report(&self, is_available: bool) {
        if let Some((server, observer)) = &self.observed {
            observer.observe(&Report::Availability(AvailabilityReport { server: *server, is_available }));
        }
    }

    /// The name of the server.
    #[must_use]
    pub fn dependency(&self) -> &'static str {
        self.dependency
    }

    /// Whether it is unavailable, and nothing has tried to use it for this long.
    #[must_use]
    pub fn is_silent_for(&self, period: Duration) -> bool {
        self.outage().as_ref().is_some_and(|outage| outage.reported_at.elapsed() >= period)
    }

    /// For how long it has been unavailable, and the last error that was logged; `None` if it is available.
    #[must_use]
    pub fn outage_so_far(&self) -> Option<(Duration, String)> {
        self.outage().as_ref().map(|outage| (outage.begin.elapsed(), outage.logged.clone()))
    }

    /// Since when it is unavailable, by the clock of this machine; `None` if it is available.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the time is shown, not stored")]
    pub fn down_since(&self) -> Option<SystemTime> {
        self.outage_so_far().map(|(lasts, _)| SystemTime::now() - lasts)
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The availability of the servers that a message handler needs.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// The database.
    pub database: Arc<AvailabilityLog>,
    /// The mail server, if the handler sends mail.
    pub notifier: Option<Arc<AvailabilityLog>>,
}

impl Dependencies {
    /// One of them did not answer.
    pub fn down(&self, error: &ServerUnavailable) {
        match (error, &self.notifier) {
            (ServerUnavailable::Notifier(_), Some(notifier)) => notifier.down(error),
            _ => self.database.down(error),
        }
    }

    /// All of them answered.
    pub fn up(&self) {
        self.database.up();
        self.notifier.iter().for_each(|notifier| notifier.up());
    }

    /// Messages were handled: the servers that were needed for this have answered.
    pub fn handled<M>(&self, handled: &Answered<M, CommandOutcome>) {
        if handled.iter().any(|(_, outcome)| outcome.is_committed()) {
            self.database.up();
        }
        if handled.iter().any(|(_, outcome)| used_notifier(outcome)) {
            self.notifier.iter().for_each(|notifier| notifier.up());
        }
    }
}

fn used_notifier(outcome: &CommandOutcome) -> bool {
    matches!(outcome, CommandOutcome::Handled | CommandOutcome::Recorded(Failure::Notification(_), _))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::error::Cause;

    #[test]
    fn each_cause_of_an_outage_is_logged_immediately_and_once() {
        let log = AvailabilityLog::of("database");
        let logged = || log.outage().as_ref().map_or(0, |outage| outage.causes.len());
        for (cause, expected) in
            [("lost 1", 1), ("lost 2", 1), ("read-only", 2), ("lost 3", 2), ("read-only", 2)]
        {
            log.down(&Cause::from(cause));
            assert_eq!(logged(), expected, "{cause}");
        }
        log.up();
        assert_eq!(logged(), 0);
        log.down(&Cause::from("read-only"));
        assert_eq!(logged(), 1);
    }
}
