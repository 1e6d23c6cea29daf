//! What was sent and what happened to it, in the order in which it happened: retention removes rows, the journal keeps
//! them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;
use sqlx::PgConnection;

use super::traffic::Message;
use crate::world::World;

/// More tables for the world's journal, the transaction of each entry, and a place for what was sent. Both are numbered
/// alike: what has the lower number was there first.
const PREPARATION: &str = "
    alter table journal add column xid xid8 not null default pg_current_xact_id();
    create trigger journal after insert or update or delete on failed_messages
        for each row execute function note_in_journal();
    create trigger journal after insert on failed_actions for each row execute function note_in_journal();
    create trigger journal after insert on outbox for each row execute function note_in_journal();
    create table sendings (
        position bigint primary key default nextval(pg_get_serial_sequence('journal', 'id')),
        queue text not null, type text not null, message_id text, body bytea not null,
        fingerprint bytea not null generated always as (substr(sha256(body), 1, 16)) stored
    );";

pub(super) async fn prepare(world: &World<'_>) -> anyhow::Result<()> {
    world.execute(PREPARATION).await
}

/// Notes messages, and then sends them.
pub(super) async fn send(world: &World<'_>, messages: &[Message]) -> anyhow::Result<()> {
    let queues: Vec<_> = messages.iter().map(Message::queue).collect();
    let kinds: Vec<_> = messages.iter().map(|message| message.kind.as_str()).collect();
    let ids: Vec<_> = messages.iter().map(|message| message.id.as_deref()).collect();
    let bodies: Vec<_> = messages.iter().map(|message| message.body.as_bytes()).collect();
    sqlx::query(
        "insert into sendings (queue, type, message_id, body)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[])",
    )
    .bind(queues)
    .bind(kinds)
    .bind(ids)
    .bind(bodies)
    .execute(&world.pool)
    .await?;
    let outgoing: Vec<_> = messages.iter().map(|message| message.outgoing(world)).collect();
    world.upstream.publish(&outgoing).await
}

/// Messages of which neither the inbox nor the ledger knows anything.
pub(super) async fn without_outcome(world: &World<'_>) -> anyhow::Result<i64> {
    world
        .count(
            "select count(*) from sendings s
             where not exists (select from inbox i where i.queue = s.queue and i.message_id = s.message_id)
               and not exists (select from journal j where j.about = 'failed_messages'
                               and coalesce(j.after, j.before) ->> 'message_id' is not distinct from s.message_id
                               and coalesce(j.after, j.before) ->> 'queue' = s.queue)",
        )
        .await
}

/// By what a message is known: the same id with another body is another message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::FromRow)]
pub(super) struct Key {
    pub(super) queue: String,
    pub(super) id: Option<String>,
    pub(super) fingerprint: String,
}

/// A message as its sender published it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Sending {
    pub(super) position: i64,
    #[sqlx(flatten)]
    pub(super) key: Key,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

/// A row of the ledger at one time.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) queue: String,
    pub(super) message_id: Option<String>,
    pub(super) fingerprint: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// In hexadecimal digits, behind `\x`.
    body: String,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) error: String,
    pub(super) error_group: String,
    pub(super) attempts: i64,
    pub(super) generation: i64,
    published_at: Option<String>,
}

impl Row {
    pub(super) fn key(&self) -> Key {
        let (queue, id) = (self.queue.clone(), self.message_id.clone());
        Key { queue, id, fingerprint: self.fingerprint.clone() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let digits = self.body.trim_start_matches("\\x").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).filter_map(byte).collect()
    }
}

/// What a transaction did with a row of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) position: i64,
    pub(super) transaction: String,
    pub(super) before: Option<Row>,
    pub(super) after: Option<Row>,
}

/// What an operator did with a row of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Action {
    pub(super) transaction: String,
    pub(super) row: i64,
    pub(super) what: String,
    pub(super) why: Option<String>,
}

/// Events that a message caused for an order: how many different ones of each name, and when the first was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Caused {
    pub(super) events: BTreeMap<String, BTreeSet<String>>,
    pub(super) first: i64,
}

/// Everything by which outcomes are known.
#[derive(Default)]
pub(super) struct History {
    pub(super) sendings: Vec<Sending>,
    /// What the inbox has: queue and id, and the hash of the body.
    pub(super) inbox: HashMap<(String, String), String>,
    /// Of each row of the ledger, in order.
    pub(super) changes: BTreeMap<i64, Vec<Change>>,
    pub(super) actions: Vec<Action>,
    /// By message id and order.
    pub(super) caused: HashMap<(String, String), Caused>,
    /// How often a batch was created.
    pub(super) created: HashMap<String, usize>,
    /// How often a batch got a quantity.
    pub(super) counted: HashMap<(String, i64), usize>,
    /// Order and SKU of each line that is there.
    pub(super) lines: HashSet<(String, String)>,
}

impl History {
    pub(super) async fn read(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let mut history = Self::default();
        history.read_messages(&mut *connection).await?;
        history.read_ledger(&mut *connection).await?;
        history.read_effects(connection).await?;
        Ok(history)
    }

    async fn read_messages(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        self.sendings = sqlx::query_as(
            "select position, queue, type as kind, message_id as id, body, fingerprint::text from sendings
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

    async fn read_ledger(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let changes: Vec<(i64, String, Option<String>, Option<String>)> = sqlx::query_as(
            "select id, xid::text, before::text, after::text from journal
             where about = 'failed_messages' order by id",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (position, transaction, before, after) in changes {
            let row = |text: Option<String>| text.map(|text| serde_json::from_str::<Row>(&text)).transpose();
            let change = Change { position, transaction, before: row(before)?, after: row(after)? };
            if let Some(row) = change.after.as_ref().or(change.before.as_ref()) {
                self.changes.entry(row.id).or_default().push(change);
            }
        }
        let actions: Vec<(String, i64, String, Option<String>)> = sqlx::query_as(
            "select xid::text, (after ->> 'failed_message_id')::bigint, after ->> 'what', after ->> 'why'
             from journal where about = 'failed_actions' order by id",
        )
        .fetch_all(connection)
        .await?;
        let action = |(transaction, row, what, why)| Action { transaction, row, what, why };
        self.actions = actions.into_iter().map(action).collect();
        Ok(())
    }

    async fn read_effects(&mut self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let events: Vec<(i64, String, String, String, String)> = sqlx::query_as(
            "select id, after ->> 'causation_id', (after ->> 'body')::json ->> 'orderid', after ->> 'name',
                    after ->> 'event_id'
             from journal where about = 'outbox' order by id",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (position, cause, orderid, name, id) in events {
            let caused = self
                .caused
                .entry((cause, orderid))
                .or_insert_with(|| Caused { first: position, ..Caused::default() });
            caused.events.entry(name).or_default().insert(id);
        }
        let batches: Vec<(String, bool, i64)> = sqlx::query_as(
            "select after ->> 'ref', op = 'INSERT', (after ->> 'purchased')::bigint from journal
             where about = 'batches' and (op = 'INSERT' or before ->> 'purchased' <> after ->> 'purchased')",
        )
        .fetch_all(&mut *connection)
        .await?;
        for (reference, created, purchased) in batches {
            *self.counted.entry((reference.clone(), purchased)).or_default() += 1;
            *self.created.entry(reference).or_default() += usize::from(created);
        }
        let lines: Vec<(String, String)> =
            sqlx::query_as("select orderid, sku from order_lines").fetch_all(connection).await?;
        self.lines = lines.into_iter().collect();
        Ok(())
    }

    /// Everything that is known of a message, in order: how it came to its outcome.
    pub(super) fn timeline(&self, key: &Key) -> Vec<String> {
        let mut entries: Vec<(i64, String)> = Vec::new();
        let sendings = self.sendings.iter().filter(|sending| sending.key == *key);
        entries.extend(sendings.map(|sending| (sending.position, "sent".into())));
        for change in self.changes.values().flatten() {
            let is_it = |row: &&Row| row.key() == *key;
            if change.before.as_ref().filter(is_it).or(change.after.as_ref().filter(is_it)).is_none() {
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
        for ((id, orderid), caused) in &self.caused {
            if Some(id) == key.id.as_ref() {
                let names: Vec<_> = caused.events.keys().map(String::as_str).collect();
                entries.push((caused.first, format!("caused {} of {orderid}", names.join(", "))));
            }
        }
        entries.sort_unstable();
        entries.into_iter().map(|(position, what)| format!("{position:>7} {what}")).collect()
    }

    /// Whether an operator did this with a row in a transaction.
    pub(super) fn acted(&self, row: i64, transaction: &str, what: &[&str]) -> bool {
        let is_it = |action: &Action| {
            action.row == row && action.transaction == transaction && what.contains(&action.what.as_str())
        };
        self.actions.iter().any(is_it)
    }
}
