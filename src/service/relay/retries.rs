//! Publishes retries of failed commands to their queues.

use tracing::{debug, warn};

use crate::{
    domain::PublishOutcome,
    ports::{
        answered::Answered,
        error::StoreError,
        failed_messages::DueRetry,
        observer::{Observer, PublishedRetry, Report, RetriesPublished, Stopwatch},
        outbox::{LeaderSession, Publisher, RetryFeed},
    },
    service::availability::AvailabilityLog,
};

use super::cycle::{pair, update_broker_health, with_heartbeat};

/// One leader's publication of retries.
pub(super) struct RetryRelay<'a> {
    publisher: &'a dyn Publisher,
    broker: &'a AvailabilityLog,
    observer: &'a dyn Observer,
    max_in_flight: u32,
    max_bytes: usize,
}

type Published = Answered<DueRetry, PublishOutcome>;

impl<'a> RetryRelay<'a> {
    pub(super) fn new(
        publisher: &'a dyn Publisher,
        broker: &'a AvailabilityLog,
        observer: &'a dyn Observer,
        max_in_flight: u32,
        max_bytes: usize,
    ) -> Self {
        Self { publisher, broker, observer, max_in_flight, max_bytes }
    }

    /// Publishes the retries that are due. True if the outcome of at least one is known, even if it has to wait.
    pub(super) async fn relay(&self, session: &mut dyn LeaderSession) -> Result<bool, StoreError> {
        let due = session.due(self.max_in_flight, self.max_bytes).await?;
        if due.is_empty() {
            return Ok(false);
        }
        let Some(published) = self.publish(session, due).await? else { return Ok(false) };
        let settled = settle(session, &published).await?;
        let broker_error =
            published.iter().find_map(|(_, outcome)| outcome.broker_error()).map(str::to_owned);
        let isolated = match suspect(published) {
            Some(suspect) => self.publish_alone(session, suspect).await?,
            None => false,
        };
        // A single retry that closes the channel is no outage of the broker.
        update_broker_health(self.broker, broker_error.as_deref().filter(|_| !isolated));
        Ok(settled || isolated)
    }

    async fn publish(
        &self,
        session: &mut dyn LeaderSession,
        due: Vec<DueRetry>,
    ) -> Result<Option<Published>, StoreError> {
        let begin = Stopwatch::start();
        let outcomes = with_heartbeat(session, self.publisher.publish_retries(&due)).await?;
        let published = pair(due, outcomes);
        if let Some(published) = &published {
            self.report(begin, published);
        }
        Ok(published)
    }

    fn report(&self, begin: Stopwatch, published: &Published) {
        if self.observer.is_active() {
            let period = begin.period();
            let contexts: Vec<_> =
                published.iter().map(|(retry, _)| self.publisher.sender_context(retry)).collect();
            let mut retries = Vec::with_capacity(published.len());
            for (index, (retry, outcome)) in published.iter().enumerate() {
                let traceparent = contexts.get(index).and_then(Option::as_deref);
                retries.push(PublishedRetry { traceparent, ..published_retry(retry, outcome) });
            }
            self.observer.observe(&Report::RetriesPublished(&RetriesPublished { period, retries: &retries }));
        }
    }

    /// Finds out whether this retry closed the channel for those behind it. True if it blocks them no longer.
    async fn publish_alone(
        &self,
        session: &mut dyn LeaderSession,
        retry: DueRetry,
    ) -> Result<bool, StoreError> {
        match self.publish(session, vec![retry]).await? {
            Some(published) => settle(session, &published).await,
            None => Ok(false),
        }
    }
}

fn published_retry<'a>(retry: &'a DueRetry, outcome: &PublishOutcome) -> PublishedRetry<'a> {
    PublishedRetry {
        failed_message_id: retry.id,
        generation: retry.generation,
        message_id: retry.message_id.as_deref(),
        traceparent: None,
        outcome: outcome.into(),
    }
}

/// The first retry with an unknown outcome; `None` if it was published alone.
fn suspect(published: Published) -> Option<DueRetry> {
    let alone = published.len() == 1;
    let mut unknown = published.into_iter().filter(|(_, outcome)| outcome.broker_error().is_some());
    unknown.next().filter(|_| !alone).map(|(retry, _)| retry)
}

/// Records the outcomes; true if at least one is known.
async fn settle(session: &mut dyn RetryFeed, published: &Published) -> Result<bool, StoreError> {
    let (mut confirmed, mut unroutable, mut nacked) = (Vec::new(), Vec::new(), Vec::new());
    for (retry, outcome) in published {
        match outcome {
            PublishOutcome::Confirmed => confirmed.push(retry),
            PublishOutcome::Unroutable => unroutable.push(retry),
            PublishOutcome::Nacked(_) => nacked.push(retry),
            PublishOutcome::Rejected(reason) => reject(session, retry, reason).await?,
            PublishOutcome::Unknown(_) => {}
        }
    }
    defer(session, &unroutable, "the queue or its binding does not exist").await?;
    defer(session, &nacked, "the queue is full").await?;
    debug!(published = published.len(), confirmed = confirmed.len(), "relayed retries");
    session.published(&confirmed).await?;
    Ok(published.iter().any(|(_, outcome)| outcome.broker_error().is_none()))
}

async fn reject(session: &mut dyn RetryFeed, retry: &DueRetry, reason: &str) -> Result<(), StoreError> {
    warn!(
        failed_message_id = retry.id,
        reason, "retry dead-lettered: the broker rejected it; run `allocation dead-letters list`"
    );
    session.reject(retry, reason).await
}

async fn defer(session: &mut dyn RetryFeed, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
    if retries.is_empty() {
        return Ok(());
    }
    warn!(
        count = retries.len(),
        reason, "retries deferred; run `allocation dead-letters list --status retrying`"
    );
    session.defer(retries, reason).await
}
