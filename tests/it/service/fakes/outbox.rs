//! An outbox that does what a test says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use allocation::ports::{
    error::StoreError,
    failed_messages::DueRetry,
    outbox::{LeaderSession, Outbox, OutboxRow, PendingWork, Retention},
};
use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

/// A relay that looks more often than this has forgotten to wait.
const MANY_LOOKS: usize = 10_000;
/// When a retry that could not be published is due again.
const HELD: Duration = Duration::from_secs(5);

/// What a relay has asked of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Asked,
    Led,
    Removed(Vec<i64>, i64),
    SetAside(i64),
    RetriesPublished(Vec<i64>),
    RetriesHeld(Vec<i64>, String),
    RetryRefused(i64),
    Swept,
    Released,
}

#[derive(Default)]
struct State {
    events: Vec<OutboxRow>,
    /// Each is due then.
    retries: Vec<(Instant, DueRetry)>,
    committed: i64,
    held_by_other: bool,
    looks: VecDeque<Result<(), StoreError>>,
    sweeps: VecDeque<Result<bool, StoreError>>,
    notes: Vec<(Instant, Note)>,
    looked: usize,
}

/// Clones are one outbox.
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

    /// So many due retries, with ids from 1 on; the ids of events begin above them.
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

    fn update_broker_health(&self, note: Note) {
        self.state().notes.push((Instant::now(), note));
    }

    /// The retries are due in so long.
    pub(crate) fn due_in(&self, delay: Duration) {
        let due = Instant::now() + delay;
        self.state().retries.iter_mut().for_each(|(at, _)| *at = due);
    }

    /// Commits an event, and gives the hint.
    pub(crate) fn commit(&self, name: &str, sku: &str) -> i64 {
        let mut state = self.state();
        state.committed += 1;
        let id = state.committed;
        state.events.push(event(id, name, sku));
        self.commit_signal.notify_one();
        id
    }

    /// Whether another relay leads.
    pub(crate) fn held_by_other(&self, held: bool) {
        self.state().held_by_other = held;
    }

    /// How the session answers the next times it is looked at.
    pub(crate) fn looks(&self, looks: impl IntoIterator<Item = Result<(), StoreError>>) {
        self.state().looks.extend(looks);
    }

    /// How the next sweeps go.
    pub(crate) fn sweeps(&self, sweeps: impl IntoIterator<Item = Result<bool, StoreError>>) {
        self.state().sweeps.extend(sweeps);
    }

    /// What was asked, without sweeps and without what was about nothing.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let trivial = [Note::Swept, Note::Removed(Vec::new(), 0), Note::RetriesPublished(Vec::new())];
        let state = self.state();
        state.notes.iter().map(|(_, note)| note.clone()).filter(|note| !trivial.contains(note)).collect()
    }

    /// When something was asked.
    pub(crate) fn times(&self, of: &Note) -> Vec<Instant> {
        self.state().notes.iter().filter(|(_, note)| note == of).map(|(time, _)| *time).collect()
    }

    /// How often the session was looked at.
    pub(crate) fn looked(&self) -> usize {
        self.state().looked
    }

    /// What is left.
    pub(crate) fn left(&self) -> (Vec<i64>, Vec<i64>) {
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
        committed_at: 0,
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
        self.update_broker_health(Note::Asked);
        if self.state().held_by_other {
            return Ok(None);
        }
        self.update_broker_health(Note::Led);
        Ok(Some(Box::new(self.clone())))
    }

    async fn wait_for_wakeup(&self) {
        self.commit_signal.notified().await;
    }
}

#[async_trait]
impl LeaderSession for ScriptedOutbox {
    async fn pending(&mut self) -> Result<PendingWork, StoreError> {
        let mut state = self.state();
        state.looked += 1;
        assert!(state.looked < MANY_LOOKS, "the relay does not wait");
        state.looks.pop_front().unwrap_or(Ok(()))?;
        let due = state.retries.iter().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let retry_in = due.min();
        Ok(PendingWork { events: !state.events.is_empty(), retry_in })
    }

    async fn unpublished(&mut self, at_most: u32, except: &[String]) -> Result<Vec<OutboxRow>, StoreError> {
        let state = self.state();
        let rows = state.events.iter().filter(|row| !except.contains(&row.sku));
        Ok(rows.take(at_most as usize).cloned().collect())
    }

    async fn remove(&mut self, ids: &[i64], unroutable: i64) -> Result<(), StoreError> {
        self.state().events.retain(|row| !ids.contains(&row.id));
        self.update_broker_health(Note::Removed(ids.to_vec(), unroutable));
        Ok(())
    }

    async fn park(&mut self, id: i64, _reason: &str) -> Result<(), StoreError> {
        self.state().events.retain(|row| row.id != id);
        self.update_broker_health(Note::SetAside(id));
        Ok(())
    }

    async fn due_retries(&mut self, at_most: u32) -> Result<Vec<DueRetry>, StoreError> {
        let (state, now) = (self.state(), Instant::now());
        let due = state.retries.iter().filter(|(due, _)| *due <= now).map(|(_, retry)| retry.clone());
        Ok(due.take(at_most as usize).collect())
    }

    async fn retries_published(&mut self, retries: &[&DueRetry]) -> Result<(), StoreError> {
        let published = ids(retries);
        self.state().retries.retain(|(_, retry)| !published.contains(&retry.id));
        self.update_broker_health(Note::RetriesPublished(published));
        Ok(())
    }

    async fn defer(&mut self, retries: &[&DueRetry], reason: &str) -> Result<(), StoreError> {
        let (held, again) = (ids(retries), Instant::now() + HELD);
        let mut state = self.state();
        let waiting = state.retries.iter_mut().filter(|(_, retry)| held.contains(&retry.id));
        waiting.for_each(|(due, _)| *due = again);
        drop(state);
        self.update_broker_health(Note::RetriesHeld(held, reason.into()));
        Ok(())
    }

    async fn reject(&mut self, retry: &DueRetry, _reason: &str) -> Result<(), StoreError> {
        self.state().retries.retain(|(_, waiting)| waiting.id != retry.id);
        self.update_broker_health(Note::RetryRefused(retry.id));
        Ok(())
    }

    async fn purge_expired(&mut self, _retention: Retention) -> Result<bool, StoreError> {
        self.update_broker_health(Note::Swept);
        self.state().sweeps.pop_front().unwrap_or(Ok(false))
    }

    async fn release(self: Box<Self>) {
        self.update_broker_health(Note::Released);
    }
}
