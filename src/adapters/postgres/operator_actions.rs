//! The ledger of failures, as operators change it.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};

use crate::{
    crash_points::{self, CrashPoint},
    ports::{
        error::StoreError,
        failed_messages::{
            ActionResult, Edit, FailedMessageFilter, FailedMessages, Operator, OperatorAction,
        },
    },
};

use super::{PgConfig, commit_signal::CHANNEL, session::PooledSession, with_timeout};

/// The failed messages of a database, for operators.
pub struct PgFailedMessages {
    pool: PgPool,
    timeout: Duration,
}

/// A message as an action finds it.
struct Found {
    id: i64,
    status: String,
    /// The inbox has it: it was handled, by another copy.
    handled: bool,
    generation: i64,
    /// A copy was published within the last minute, or will be in a moment. An older one may have been lost with its
    /// queue; another copy does no harm.
    on_its_way: bool,
}

impl PgFailedMessages {
    /// A ledger over a pool.
    #[must_use]
    pub fn new(pool: PgPool, access: &PgConfig) -> Self {
        Self { pool, timeout: access.timeout }
    }
}

#[async_trait]
impl FailedMessages for PgFailedMessages {
    async fn matching(&self, filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError> {
        let ids = sqlx::query_scalar!(
            "select id from failed_messages
             where ($1::bigint[] is null or id = any($1)) and ($2::text is null or status = $2)
               and ($3::text is null or queue = $3) and ($4::text is null or type = $4)
               and ($5::text is null or reason = $5)
               and ($6::text is null or strpos(lower(concat(error, ' ', message_id)), lower($6)) > 0)
               and ($7::double precision is null or last_failed_at > now() - make_interval(secs => $7))
               and ($8::text is null or error_group = $8)
             order by last_failed_at, id",
            filter.ids.as_deref(),
            filter.status,
            filter.queue,
            filter.kind,
            filter.reason,
            filter.grep,
            filter.since.map(|since| since.as_secs_f64()),
            filter.group,
        );
        with_timeout(self.timeout, ids.fetch_all(&self.pool)).await
    }

    async fn apply(
        &self,
        action: OperatorAction,
        ids: &[i64],
        filter: &FailedMessageFilter,
        by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        let results =
            session.run(async |connection| apply(connection, action, ids, filter, by).await).await?;
        crash_points::here(CrashPoint::OperatorBeforeCommit);
        session.commit().await?;
        crash_points::here(CrashPoint::OperatorAfterCommit);
        Ok(results)
    }

    async fn edit(&self, id: i64, edit: &Edit, by: &Operator) -> Result<ActionResult, StoreError> {
        let mut session = PooledSession::begin(&self.pool, self.timeout).await?;
        let results = session.run(async |connection| replace_body(connection, id, edit, by).await).await?;
        session.commit().await?;
        Ok(results)
    }
}

async fn apply(
    connection: &mut PgConnection,
    action: OperatorAction,
    ids: &[i64],
    filter: &FailedMessageFilter,
    by: &Operator,
) -> Result<Vec<(i64, ActionResult)>, sqlx::Error> {
    let mut results = Vec::with_capacity(ids.len());
    let (mut done, mut handled) = (Vec::new(), Vec::new());
    let found = find(connection, ids, filter).await?;
    let matching: HashSet<_> = found.iter().map(|found| found.id).collect();
    let changed = ids.iter().filter(|id| !matching.contains(id));
    results
        .extend(changed.map(|id| (*id, ActionResult::Skipped("it changed meanwhile and no longer matches"))));
    for found in found {
        let outcome = judge(action, &found);
        match outcome {
            ActionResult::Applied => done.push(found.id),
            ActionResult::Skipped(_) if found.handled => handled.push(found.id),
            ActionResult::Skipped(_) => {}
        }
        results.push((found.id, outcome));
    }
    resolve(connection, &handled).await?;
    let what = match action {
        OperatorAction::Retry => retry(connection, &done).await?,
        OperatorAction::Discard => discard(connection, &done).await?,
        OperatorAction::Restore => restore(connection, &done).await?,
    };
    record(connection, &done, what, by, None).await?;
    Ok(results)
}

async fn replace_body(
    connection: &mut PgConnection,
    id: i64,
    edit: &Edit,
    by: &Operator,
) -> Result<ActionResult, sqlx::Error> {
    let Some(found) = find(connection, &[id], &FailedMessageFilter::default()).await?.pop() else {
        return Ok(ActionResult::Skipped("there is none"));
    };
    if found.status != "dead" {
        return Ok(ActionResult::Skipped("it is not dead"));
    }
    if found.generation != edit.shown_generation {
        return Ok(ActionResult::Skipped("it changed meanwhile; look at it again"));
    }
    let previous = replace(connection, id, edit).await?;
    retry(connection, &[id]).await?;
    record(connection, &[id], "edit", by, Some(&previous)).await?;
    Ok(ActionResult::Applied)
}

/// What an action may do with a message as it was found.
fn judge(action: OperatorAction, found: &Found) -> ActionResult {
    match (action, found.status.as_str()) {
        (OperatorAction::Retry, _) if found.handled => ActionResult::Skipped("it was handled meanwhile"),
        (OperatorAction::Retry, "retrying") if found.on_its_way => {
            ActionResult::Skipped("it is on its way already")
        }
        (OperatorAction::Retry, "dead" | "retrying")
        | (OperatorAction::Discard, "dead")
        | (OperatorAction::Restore, "discarded") => ActionResult::Applied,
        (OperatorAction::Retry, "discarded") => ActionResult::Skipped("it is discarded; restore it first"),
        (OperatorAction::Retry, _) => ActionResult::Skipped("it is resolved"),
        (OperatorAction::Discard, _) => ActionResult::Skipped("it is not dead"),
        (OperatorAction::Restore, _) => ActionResult::Skipped("it is not discarded"),
    }
}

/// Holds the messages, in the order of their ids, so that two operators never wait for each other. Of two at once the
/// second sees what the first did; its transaction may have begun earlier, so it is the clock that counts.
///
/// Those that the selection no longer matches are left out. Its ids are those given. `since` is not asked again: a message
/// that fails again only becomes younger.
async fn find(
    tx: &mut PgConnection,
    ids: &[i64],
    filter: &FailedMessageFilter,
) -> Result<Vec<Found>, sqlx::Error> {
    sqlx::query_as!(
        Found,
        r#"select f.id, f.status, f.generation,
                  exists (select from inbox i where i.queue = f.queue and i.message_id = f.message_id
                          and i.fingerprint = f.fingerprint and coalesce(i.type, f.type) = f.type) as "handled!",
                  (coalesce(f.published_at, f.due_at)
                   between clock_timestamp() - interval '1 minute' and clock_timestamp()) is true as "on_its_way!"
           from failed_messages f
           where f.id = any($1) and ($2::text is null or f.status = $2)
             and ($3::text is null or f.queue = $3) and ($4::text is null or f.type = $4)
             and ($5::text is null or f.reason = $5)
             and ($6::text is null or strpos(lower(concat(f.error, ' ', f.message_id)), lower($6)) > 0)
             and ($7::text is null or f.error_group = $7)
           order by f.id for update"#,
        ids,
        filter.status,
        filter.queue,
        filter.kind,
        filter.reason,
        filter.grep,
        filter.group,
    )
    .fetch_all(tx)
    .await
}

/// The row is what the relay publishes from, so that the decision and the publication are one transaction.
async fn retry(tx: &mut PgConnection, ids: &[i64]) -> Result<&'static str, sqlx::Error> {
    sqlx::query!(
        "update failed_messages
         set status = 'retrying', reason = null, due_at = now(), published_at = null, ended_at = null,
             attempts = case status when 'dead' then 0 else attempts end,
             generation = generation + (status = 'dead')::integer
         where id = any($1)",
        ids,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(tx).await?;
    Ok("retry")
}

async fn discard(tx: &mut PgConnection, ids: &[i64]) -> Result<&'static str, sqlx::Error> {
    sqlx::query!("update failed_messages set status = 'discarded', ended_at = now() where id = any($1)", ids)
        .execute(tx)
        .await?;
    Ok("discard")
}

async fn restore(tx: &mut PgConnection, ids: &[i64]) -> Result<&'static str, sqlx::Error> {
    sqlx::query!("update failed_messages set status = 'dead', ended_at = null where id = any($1)", ids)
        .execute(tx)
        .await?;
    Ok("restore")
}

async fn resolve(tx: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update failed_messages set status = 'resolved', reason = null, due_at = null, ended_at = now()
         where id = any($1) and status in ('dead', 'retrying')",
        ids,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts the new body in and gives back the old one.
async fn replace(tx: &mut PgConnection, id: i64, edit: &Edit) -> Result<Vec<u8>, sqlx::Error> {
    let previous =
        sqlx::query_scalar!("select body from failed_messages where id = $1", id).fetch_one(&mut *tx).await?;
    sqlx::query!(
        "update failed_messages set type = $2, message_id = $3, body = $4, fingerprint = $5, edited = true
         where id = $1",
        id,
        edit.kind,
        edit.message_id,
        edit.body,
        &edit.body_hash.0[..],
    )
    .execute(tx)
    .await?;
    Ok(previous)
}

async fn record(
    tx: &mut PgConnection,
    ids: &[i64],
    what: &str,
    by: &Operator,
    previous_body: Option<&[u8]>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into failed_actions (failed_message_id, who, what, why, previous_body)
         select id, $2, $3, $4, $5 from unnest($1::bigint[]) as id",
        ids,
        by.who,
        what,
        by.why,
        previous_body,
    )
    .execute(tx)
    .await?;
    Ok(())
}
