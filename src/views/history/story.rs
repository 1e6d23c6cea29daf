//! Puts the steps of a message or an order together, and says what is not known.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    ports::{error::StoreError, queue::QueueName},
    views::{handle::Views, order_state::key_range},
};

use super::{
    records::{EventRecord, Failed, Handled, LineState, MAX_EVENTS, NamedLine},
    steps::{self, HistoryStep},
};

/// Everything that is known about a message, or about the failed messages of an order.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// The message id; none of an order, or of a message without an id.
    pub message_id: Option<String>,
    /// The queues that it was in.
    pub queues: Vec<String>,
    /// `handled`, `retrying`, `waiting`, `dead`, `discarded` or `unknown`.
    pub stands: &'static str,
    /// What happened, in the order of time.
    pub steps: Vec<HistoryStep>,
    /// What nothing is recorded about.
    pub not_known: Vec<String>,
    /// Where its lines are now.
    #[serde(skip)]
    pub lines: Vec<LineState>,
}

/// How long rows are kept that a history is made of.
#[derive(Clone, Copy, Debug)]
pub struct KeptFor {
    /// Handled messages.
    pub inbox: Duration,
    /// Published events.
    pub published: Duration,
}

/// What was found about a message.
#[derive(Default)]
struct Found {
    handled: Vec<Handled>,
    failed: Vec<Failed>,
    events: Vec<EventRecord>,
    steps: Vec<HistoryStep>,
}

impl Views {
    /// The history of a message, in all queues or in one, named without the namespace.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn message_history(
        &self,
        message_id: &str,
        queue: Option<&str>,
        kept: KeptFor,
    ) -> Result<History, StoreError> {
        let names = QueueName::ALL.into_iter().map(QueueName::as_str);
        let asked = names.filter(|name| queue.is_none_or(|queue| queue == *name));
        let queues: Vec<_> = asked.map(str::to_owned).collect();
        let handled = self.handled(message_id, &queues).await?;
        let failed = self.failed_with_message_id(message_id, &queues).await?;
        let times: Vec<_> = handled.iter().map(|handled| handled.handled_at).collect();
        let events = if times.is_empty() { Vec::new() } else { self.events_of(message_id, &times).await? };
        let mut found = Found { handled, failed, events, steps: Vec::new() };
        self.add_steps(&mut found).await?;
        let lines = self.lines_of(&found).await?;
        let now = self.now().await?;
        Ok(found.history(Some(message_id.to_owned()), &self.namespace, lines, now, kept))
    }

    /// The history of a failed message; none if there is no such message.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn failed_message_history(
        &self,
        id: i64,
        kept: KeptFor,
    ) -> Result<Option<History>, StoreError> {
        let Some(failed) = self.failed_with_id(id).await? else { return Ok(None) };
        if let Some(message_id) = &failed.message_id {
            return Ok(Some(self.message_history(message_id, Some(&failed.queue), kept).await?));
        }
        let mut found = Found { failed: vec![failed], ..Found::default() };
        self.add_steps(&mut found).await?;
        let lines = self.lines_of(&found).await?;
        let now = self.now().await?;
        Ok(Some(found.history(None, &self.namespace, lines, now, kept)))
    }

    /// The histories of the failed messages of an order, as one.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn order_history(&self, orderid: &str, kept: KeptFor) -> Result<History, StoreError> {
        let (first, end) = key_range(orderid);
        let failed = self.failed_with_keys(&first, &end).await?;
        let mut found = Found { failed, ..Found::default() };
        for index in 0..found.failed.len() {
            let Some(message_id) = found.failed[index].message_id.clone() else { continue };
            let handled = self.handled(&message_id, &[found.failed[index].queue.clone()]).await?;
            let times: Vec<_> = handled.iter().map(|handled| handled.handled_at).collect();
            if !times.is_empty() {
                found.events.extend(self.events_of(&message_id, &times).await?);
            }
            found.handled.extend(handled);
        }
        self.add_steps(&mut found).await?;
        let lines = self.lines_of_order(orderid).await?;
        let now = self.now().await?;
        let mut history = found.history(None, &self.namespace, lines, now, kept);
        if history.stands == "unknown" && !history.lines.is_empty() {
            history.stands = "handled";
            history.not_known.clear();
        }
        history.not_known.push(
            "commands that did not fail: they are found by their message ids only, not by their order".into(),
        );
        Ok(history)
    }

    async fn add_steps(&self, found: &mut Found) -> Result<(), StoreError> {
        for failed in &found.failed {
            found.steps.extend(self.attempts_of(failed.id).await?.into_iter().map(steps::of_attempt));
            found.steps.extend(steps::of_failed(failed));
            found.steps.extend(self.actions_of(failed.id).await?.into_iter().map(steps::of_action));
        }
        Ok(())
    }

    /// The lines that a message is about, or that its events are about.
    async fn lines_of(&self, found: &Found) -> Result<Vec<LineState>, StoreError> {
        let bodies = found.failed.iter().map(|failed| &failed.body[..]);
        let events = found.events.iter().map(|event| event.body.as_bytes());
        let (mut orderids, mut skus) = (Vec::new(), Vec::new());
        for body in bodies.chain(events) {
            if let Ok(NamedLine { orderid, sku, .. }) = serde_json::from_slice(body)
                && !orderids.iter().enumerate().any(|(at, known)| *known == orderid && skus[at] == sku)
            {
                orderids.push(orderid);
                skus.push(sku);
            }
        }
        if orderids.is_empty() { Ok(Vec::new()) } else { self.line_states(&orderids, &skus).await }
    }
}

impl Found {
    fn history(
        mut self,
        message_id: Option<String>,
        namespace: &str,
        lines: Vec<LineState>,
        now: OffsetDateTime,
        kept: KeptFor,
    ) -> History {
        for handled in &mut self.handled {
            handled.queue = format!("{namespace}.{}", handled.queue);
        }
        let not_known = self.not_known(now, kept);
        self.steps.extend(self.handled.iter().map(steps::of_handled));
        self.steps.extend(self.events.iter().take(MAX_EVENTS).flat_map(steps::of_event));
        // Steps of one transaction have one time, and stay in their order.
        self.steps.sort_by_key(|step| step.at);
        let of_failed = self.failed.iter().map(|failed| format!("{namespace}.{}", failed.queue));
        let mut queues: Vec<_> =
            self.handled.iter().map(|handled| handled.queue.clone()).chain(of_failed).collect();
        queues.sort();
        queues.dedup();
        History { message_id, queues, stands: self.stands(), steps: self.steps, not_known, lines }
    }

    /// The status of the message that needs attention most.
    fn stands(&self) -> &'static str {
        let has = |status: &str| self.failed.iter().any(|failed| failed.status == status);
        let open = ["retrying", "waiting", "dead", "discarded"].into_iter().find(|status| has(status));
        match open {
            Some(status) => status,
            None if !self.handled.is_empty() || has("resolved") => "handled",
            None => "unknown",
        }
    }

    fn not_known(&self, now: OffsetDateTime, kept: KeptFor) -> Vec<String> {
        let mut not_known = Vec::new();
        let duration = |duration: Duration| humantime::format_duration(duration).to_string();
        if self.handled.is_empty() && self.failed.is_empty() {
            let kept = duration(kept.inbox);
            not_known.push(format!(
                "whether it was sent, is in a queue, or was handled more than {kept} ago (retention.inbox)"
            ));
            return not_known;
        }
        if !self.handled.is_empty() {
            not_known
                .push("when it was sent, and which process handled it: only failures are recorded so".into());
            let is_old = self.handled.iter().any(|handled| now - handled.handled_at > kept.published);
            if kept.published.is_zero() {
                not_known
                    .push("its published events: they are not recorded (retention.published = 0s)".into());
            } else if is_old {
                let kept = duration(kept.published);
                not_known.push(format!("events older than {kept}: they are not kept (retention.published)"));
            }
        }
        if self.events.len() > MAX_EVENTS {
            not_known.push(format!("more events than the first {MAX_EVENTS}"));
        }
        not_known
    }
}
