//! An outbox with scripted answers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use allocation::{
    domain::OutboxRow,
    ports::{
        error::StoreError,
        failed_messages::DueRetry,
        outbox::{EventFeed, LeaderSession, Outbox, PendingWork, Purge, Retention, RetryFeed, Upkeep},
    },
};
use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

/// A relay that polls more often than this does not wait between its cycles.
const MAX_POLLS: usize = 10_000;
/// The time until a deferred retry is due again.
const DEFERRED_FOR: Duration = Duration::from_secs(5);

/// A call of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutboxCall {
    TryLead,
    BecameLeader,
    Removed(Vec<i64>, usize),
    Parked(i64),
    RetriesPublished(Vec<i64>),
    RetriesDeferred(Vec<i64>, String),
    RetryRejected(i64),
    Purged,
    Released,
}

#[derive(Default)]
struct State {
    events: Vec<OutboxRow>,
    /// Each with the time at which it is due.
    retries: Vec<(Instant, DueRetry)>,
    committed: i64,
    other_leader: bool,
    /// Why it accepts no writes.
    unwritable: Option<StoreError>,
    poll_answers: VecDeque<Result<(), StoreError>>,
    purge_answers: VecDeque<Result<bool, StoreError>>,
    calls: Vec<(Instant, OutboxCall)>,
    polls: usize,
}

/// Clones share one outbox.
#[derive(Clone, Default)]
pub(crate) struct ScriptedOutbox {
    state: Arc<Mutex<State>>,
    commit_signal: Arc<Notify>,
}

impl ScriptedOutbox {
    /// Events by name and SKU, with ids from 1 on.
    pub(crate) fn of_events(events: &[(&str, &str)]) -> Self {
        let outbox = Self::default();
        for (name, sku) in events {
            outbox.commit(name, sku);
        }
        outbox
    }

    /// Due retries with ids from 1 on; the ids of events start above them.
    pub(crate) fn of_retries(count: i64) -> Self {
        let outbox = Self::default();
        let now = Instant::now();
        outbox.state().retries.extend((1..=count).map(|id| (now, due_retry(id))));
        outbox.state().committed = count;
        outbox
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn record(&self, call: OutboxCall) {
        self.state().calls.push((Instant::now(), call));
    }

    /// Sets the time until the retries are due.
    pub(crate) fn set_due_in(&self, delay: Duration) {
        let due = Instant::now() + delay;
        self.state().retries.iter_mut().for_each(|(at, _)| *at = due);
    }

    /// Commits an event, and wakes the relay up.
    pub(crate) fn commit(&self, name: &str, sku: &str) -> i64 {
        let mut state = self.state();
        state.committed += 1;
        let id = state.committed;
        state.events.push(event(id, name, sku));
        self.commit_signal.notify_one();
        id
    }

    /// Whether another relay is the leader.
    pub(crate) fn set_other_leader(&self, other_leader: bool) {
        self.state().other_leader = other_leader;
    }

    /// Whether it accepts writes, and why not.
    pub(crate) fn set_unwritable(&self, error: Option<StoreError>) {
        self.state().unwritable = error;
    }

    /// The answers to the next polls; later ones succeed.
    pub(crate) fn answer_polls(&self, answers: impl IntoIterator<Item = Result<(), StoreError>>) {
        self.state().poll_answers.extend(answers);
    }

    /// The answers to the next purges; later ones have nothing more to remove.
    pub(crate) fn answer_purges(&self, answers: impl IntoIterator<Item = Result<bool, StoreError>>) {
        self.state().purge_answers.extend(answers);
    }

    /// The calls in their order, without purges and without those that concern no row.
    pub(crate) fn calls(&self) -> Vec<OutboxCall> {
        let trivial = [
            OutboxCall::Purged,
            OutboxCall::Removed(Vec::new(), 0),
            OutboxCall::RetriesPublished(Vec::new()),
        ];
        let state = self.state();
        state.calls.iter().map(|(_, call)| call.clone()).filter(|call| !trivial.contains(call)).collect()
    }

    /// The times of a call.
    pub(crate) fn times(&self, of: &OutboxCall) -> Vec<Instant> {
        self.state().calls.iter().filter(|(_, call)| call == of).map(|(time, _)| *time).collect()
    }

    /// How often the session was polled.
    pub(crate) fn polls(&self) -> usize {
        self.state().polls
    }

    /// The ids of the remaining events and retries.
    pub(crate) fn remaining(&self) -> (Vec<i64>, Vec<i64>) {
        let state = self.state();
        let events = state.events.iter().map(|row| row.id).collect();
        (events, state.retries.iter().map(|(_, retry)| retry.id).collect())
    }
}

fn event(id: i64, name: &str, sku: &str) -> OutboxRow {
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
        tracestate: None,
        committed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn due_retry(id: i64) -> DueRetry {
    DueRetry {
        id,
        generation: 1,
        queue: "orders".into(),
        message_id: Some(format!("m{id}")),
        kind: "allocate".into(),
        body: Vec::new(),
        original: Vec::new(),
        edited: false,
        secret: Uuid::nil(),
    }
}

fn ids(retries: &[&DueRetry]) -> Vec<i64> {
    retries.iter().map(|retry| retry.id).collect()
}

#[async_trait]
impl Outbox for ScriptedOutbox {
    async fn try_lead(&self) -> Result<Option<Box<dyn LeaderSession>>, StoreError> {
        self.record(OutboxCall::TryLead);
        if self.state().other_leader {
            return Ok(None);
        }
        self.probe().await?;
        self.record(OutboxCall::BecameLeader);
        Ok(Some(Box::new(self.clone())))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.state().unwritable.clone().map_or(Ok(()), Err)
    }

    async fn wait_for_wakeup(&self) {
        self.commit_signal.notified().await;
    }
}

#[async_trait]
impl LeaderSession for ScriptedOutbox {
    async fn release(self: Box<Self>) {
        self.record(OutboxCall::Released);
    }
}

#[async_trait]
impl EventFeed for ScriptedOutbox {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        let mut state = self.state();
        state.polls += 1;
        assert!(state.polls < MAX_POLLS, "the relay does not wait");
        state.poll_answers.pop_front().unwrap_or(Ok(()))?;
        let due = state.retries.iter().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let retry_in = due.min();
        Ok(PendingWork { events: !state.events.is_empty(), retry_in })
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        let state = self.state();
        let rows = state.events.iter().filter(|row| !except.contains(&row.sku));
        Ok(rows.take(at_most as usize).cloned().collect())
    }

    async fn remove(&mut self, ids: &[i64], unroutable: &[i64]) -> Result<(), StoreError> {
        self.state().events.retain(|row| !ids.contains(&row.id));
        self.record(OutboxCall::Removed(ids.to_vec(), unroutable.len()));
        Ok(())
    }

    async fn record_nacked(&mut self, _names: &[String]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn park(&mut self, id: i64, _reason: &str) -> Result<(), StoreError> {
        self.state().events.retain(|row| row.id != id);
        self.record(OutboxCall::Parked(id));
        Ok(())
    }
}

#[async_trait]
impl RetryFeed for ScriptedOutbox {
    async fn due(&mut self, at_most: u32, _at_most_bytes: usize) -> Result<Vec<DueRetry>, StoreError> {
        let (state, now) = (self.state(), Instant::now());
        let due = state.retries.iter().filter(|(due, _)| *due <= now).map(|(_, retry)| retry.clone());
        Ok(due.take(at_most as usize).collect())
    }

    async fn published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        let published = ids(retries);
        self.state().retries.retain(|(_, retry)| !published.contains(&retry.id));
        self.record(OutboxCall::RetriesPublished(published));
        Ok(())
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        let (deferred, due_again) = (ids(retries), Instant::now() + DEFERRED_FOR);
        let mut state = self.state();
        let waiting = state.retries.iter_mut().filter(|(_, retry)| deferred.contains(&retry.id));
        waiting.for_each(|(due, _)| *due = due_again);
        drop(state);
        self.record(OutboxCall::RetriesDeferred(deferred, reason.into()));
        Ok(())
    }

    async fn reject(&mut self, retry: &DueRetry, _reason: &str) -> Result<(), StoreError> {
        self.state().retries.retain(|(_, waiting)| waiting.id != retry.id);
        self.record(OutboxCall::RetryRejected(retry.id));
        Ok(())
    }
}

#[async_trait]
impl Upkeep for ScriptedOutbox {
    async fn purge(&mut self, _retention: Retention) -> Result<Purge, StoreError> {
        self.record(OutboxCall::Purged);
        let answer = self.state().purge_answers.pop_front().unwrap_or(Ok(false));
        answer.map(|is_incomplete| Purge { is_incomplete, ..Purge::default() })
    }

    async fn add_up_failed_messages(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
