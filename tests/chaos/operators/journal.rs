//! What was sent and what happened to it, in order. Retention removes rows; the journal keeps them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;
use sqlx::PgConnection;

use super::traffic::Message;
use crate::test_system::TestSystem;

/// Journal triggers on further tables, the transaction of each entry, and a table of sent messages. Both share one
/// sequence, so a lower number is earlier.
const SETUP_SQL: &str = "
    alter table journal add column xid xid8 not null default pg_current_xact_id();
    create trigger journal after insert or update or delete on failed_messages
        for each row execute function record_in_journal();
    create trigger journal after insert on failed_actions for each row execute function record_in_journal();
    create trigger journal after insert on outbox for each row execute function record_in_journal();
    create table sent_messages (
        position bigint primary key default nextval(pg_get_serial_sequence('journal', 'id')),
        queue text not null, type text not null, message_id text, body bytea not null,
        fingerprint bytea not null generated always as (substr(sha256(body), 1, 16)) stored
    );";

pub(super) async fn prepare(system: &TestSystem<'_>) -> anyhow::Result<()> {
    system.execute(SETUP_SQL).await
}

/// Records messages, and then sends them.
pub(super) async fn send(system: &TestSystem<'_>, messages: &[Message]) -> anyhow::Result<()> {
    let queues: Vec<_> = messages.iter().map(Message::queue).collect();
    let kinds: Vec<_> = messages.iter().map(|message| message.kind.as_str()).collect();
    let ids: Vec<_> = messages.iter().map(|message| message.id.as_deref()).collect();
    let bodies: Vec<_> = messages.iter().map(|message| message.body.as_bytes()).collect();
    sqlx::query(
        "insert into sent_messages (queue, type, message_id, body)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[])",
    )
    .bind(queues)
    .bind(kinds)
    .bind(ids)
    .bind(bodies)
    .execute(&system.pool)
    .await?;
    let outgoing: Vec<_> = messages.iter().map(|message| message.outgoing_message(system)).collect();
    system.command_source.publish(&outgoing).await
}

/// The number of messages that are neither in the inbox nor in the journal of failed messages.
pub(super) async fn messages_without_outcome(system: &TestSystem<'_>) -> anyhow::Result<i64> {
    system
        .count(
            "select count(*) from sent_messages s
             where not exists (select from inbox i where i.queue = s.queue and i.message_id = s.message_id)
               and not exists (select from journal j where j.table_name = 'failed_messages'
                               and coalesce(j.after, j.before) ->> 'message_id' is not distinct from s.message_id
                               and coalesce(j.after, j.before) ->> 'queue' = s.queue)",
        )
        .await
}

/// Identifies a message: the same id with a different body is another message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::FromRow)]
pub(super) struct MessageIdentity {
    pub(super) queue: String,
    pub(super) id: Option<String>,
    pub(super) fingerprint: String,
}

/// A message as its sender published it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct SentMessage {
    pub(super) position: i64,
    #[sqlx(flatten)]
    pub(super) identity: MessageIdentity,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

/// A row of `failed_messages` at one time.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FailedMessageRow {
    pub(super) id: i64,
    pub(super) queue: String,
    pub(super) message_id: Option<String>,
    pub(super) fingerprint: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Hexadecimal digits after `\x`.
    body: String,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) error: String,
    pub(super) error_group: String,
    pub(super) attempts: i64,
    pub(super) generation: i64,
    published_at: Option<String>,
}

impl FailedMessageRow {
    pub(super) fn identity(&self) -> MessageIdentity {
        let (queue, id) = (self.queue.clone(), self.message_id.clone());
        MessageIdentity { queue, id, fingerprint: self.fingerprint.clone() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let digits = self.body.trim_start_matches("\\x").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).filter_map(byte).collect()
    }
}

/// The change of a row of `failed_messages` by a transaction.
#[derive(Clone, Debug)]
pub(super) struct RowChange {
    pub(super) position: i64,
    pub(super) transaction: String,
    pub(super) before: Option<FailedMessageRow>,
    pub(super) after: Option<FailedMessageRow>,
}

/// An operator action on a row of `failed_messages`.
#[derive(Clone, Debug)]
pub(super) struct RecordedAction {
    pub(super) transaction: String,
    pub(super) row: i64,
    pub(super) name: String,
    pub(super) why: Option<String>,
}

/// Events that a message caused for an order: the distinct ones of each name, and when the first was written.
#[derive(Clone, Debug, Default)]
pub(super) struct CausedEvents {
    pub(super) events: BTreeMap<String, BTreeSet<String>>,
    pub(super) first: i64,
}

/// Everything that determines the outcomes.
#[derive(Default)]
pub(super) struct History {
    pub(super) sent_messages: Vec<SentMessage>,
    /// The inbox: queue and id, and the hash of the body.
    pub(super) inbox: HashMap<(String, String), String>,
    /// The changes of each row of `failed_messages`, in order.
    pub(super) changes: BTreeMap<i64, Vec<RowChange>>,
    pub(super) actions: Vec<RecordedAction>,
    /// By message id and order.
    pub(super) caused_events: HashMap<(String, String), CausedEvents>,
    /// How often each batch was created.
    pub(super) created_batches: HashMap<String, usize>,
    /// How often each batch got each quantity.
    pub(super) quantities: HashMap<(String, i64), usize>,
    /// Order and SKU of each existing line.
    pub(super) lines: HashSet<(String, String)>,
}

impl History {
    pub(super) async fn read(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let mut history = Self::default();
        history.read_messages(&mut *connection).await?;
        history.read_failed_messages(&mut *connection).await?;
        history.read_effects(connection).await?;
        Ok(history)
    }

    async fn read_messages(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        self.sent_messages = sqlx::query_as(
            "select position, queue, type as kind, message_id as id, body, fingerprint::text from sent_messages
             order by position",
        )
        .fetch_all(&mut *connection)
        .await?;
        let handled: Vec<(String, String, String)> =
            sqlx::query_as("select queue, message_id, fingerprint::text from inbox")
                .fetch_all(connection)
                .await?;
        self.inbox = handled.into_iter().map(|(queue, id, hash)| ((queue, id), hash)).collect();
        Ok(())
    }

    async fn read_failed_messages(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let changes: Vec<(i64, String, Option<String>, Option<String>)> = sqlx::query_as(
            "select id, xid::text, before::text, after::text from journal
             where table_name = 'failed_messages' order by id",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (position, transaction, before, after) in changes {
            let row = |text: Option<String>| {
                text.map(|text| serde_json::from_str::<FailedMessageRow>(&text)).transpose()
            };
            let change = RowChange { position, transaction, before: row(before)?, after: row(after)? };
            if let Some(row) = change.after.as_ref().or(change.before.as_ref()) {
                self.changes.entry(row.id).or_default().push(change);
            }
        }
        let actions: Vec<(String, i64, String, Option<String>)> = sqlx::query_as(
            "select xid::text, (after ->> 'failed_message_id')::bigint, after ->> 'what', after ->> 'why'
             from journal where table_name = 'failed_actions' order by id",
        )
        .fetch_all(connection)
        .await?;
        let action = |(transaction, row, name, why)| RecordedAction { transaction, row, name, why };
        self.actions = actions.into_iter().map(action).collect();
        Ok(())
    }

    async fn read_effects(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let events: Vec<(i64, String, String, String, String)> = sqlx::query_as(
            "select id, after ->> 'causation_id', (after ->> 'body')::json ->> 'orderid', after ->> 'name',
                    after ->> 'event_id'
             from journal where table_name = 'outbox' order by id",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (position, cause, orderid, name, id) in events {
            let caused_events = self
                .caused_events
                .entry((cause, orderid))
                .or_insert_with(|| CausedEvents { first: position, ..CausedEvents::default() });
            caused_events.events.entry(name).or_default().insert(id);
        }
        let batches: Vec<(String, bool, i64)> = sqlx::query_as(
            "select after ->> 'ref', op = 'INSERT', (after ->> 'purchased')::bigint from journal
             where table_name = 'batches' and (op = 'INSERT' or before ->> 'purchased' <> after ->> 'purchased')",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (reference, created, purchased) in batches {
            *self.quantities.entry((reference.clone(), purchased)).or_default() += 1;
            *self.created_batches.entry(reference).or_default() += usize::from(created);
        }
        let lines: Vec<(String, String)> =
            sqlx::query_as("select orderid, sku from order_lines").fetch_all(connection).await?;
        self.lines = lines.into_iter().collect();
        Ok(())
    }

    /// Everything known about a message, in order.
    pub(super) fn timeline(&self, identity: &MessageIdentity) -> Vec<String> {
        let mut entries: Vec<(i64, String)> = Vec::new();
        let sent_messages = self.sent_messages.iter().filter(|sent| sent.identity == *identity);
        entries.extend(sent_messages.map(|sent| (sent.position, "sent".into())));
        for change in self.changes.values().flatten() {
            let matches = |row: &&FailedMessageRow| row.identity() == *identity;
            if change.before.as_ref().filter(matches).or(change.after.as_ref().filter(matches)).is_none() {
                continue;
            }
            let after = change.after.as_ref().map_or("removed".into(), |row| {
                format!(
                    "{} {} attempt {} generation {} published {}",
                    row.status,
                    row.reason.as_deref().unwrap_or_default(),
                    row.attempts,
                    row.generation,
                    row.published_at.as_deref().unwrap_or("not yet")
                )
            });
            entries.push((change.position, after));
        }
        for ((id, orderid), caused_events) in &self.caused_events {
            if Some(id) == identity.id.as_ref() {
                let names: Vec<_> = caused_events.events.keys().map(String::as_str).collect();
                entries.push((caused_events.first, format!("caused {} of {orderid}", names.join(", "))));
            }
        }
        entries.sort_unstable();
        entries.into_iter().map(|(position, text)| format!("{position:>7} {text}")).collect()
    }

    /// Whether a transaction recorded one of these actions on a row.
    pub(super) fn has_action(&self, row: i64, transaction: &str, names: &[&str]) -> bool {
        let matches = |action: &RecordedAction| {
            action.row == row && action.transaction == transaction && names.contains(&action.name.as_str())
        };
        self.actions.iter().any(matches)
    }
}
