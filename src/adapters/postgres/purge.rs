//! Periodic upkeep in small steps: expired rows are removed, lost retries are published again, and messages that wait for
//! nothing are tried.

use std::time::Duration;

use sqlx::PgConnection;

use crate::{
    domain::OrderingKey,
    ports::{
        observer::PurgedRows,
        outbox::{Purge, Retention},
    },
};

use super::failed_messages;

/// Rows of one table that one call removes: few enough that no other transaction has to wait for long.
const PURGE_SIZE: i64 = 5000;

/// Removes expired inbox rows, starts and failed messages, and publishes retries again that were not handled within an hour.
/// The result says whether there may be more.
pub(super) async fn purge(connection: &mut PgConnection, retention: Retention) -> Result<Purge, sqlx::Error> {
    // An id stays as long as another message with this id, for example an edited one, may be retried.
    let inbox = sqlx::query!(
        "delete from inbox where ctid = any(array(
             select ctid from inbox i where handled_at < now() - make_interval(secs => $1)
               and not exists (select from failed_messages f
                               where f.queue = i.queue and coalesce(f.message_id, '') = i.message_id
                                 and f.status <> 'resolved')
             order by handled_at limit $2))",
        seconds(retention.inbox),
        PURGE_SIZE,
    );
    let handled = inbox.execute(&mut *connection).await?.rows_affected();
    // A copy of a retry may be in a queue as long as any duplicate. A discarded message has no inbox row that recognizes it.
    // The condition is repeated: if a row changed while its lock was awaited, only the outer condition is evaluated again.
    let failures = sqlx::query!(
        "delete from failed_messages
         where id = any(array(
                 select id from failed_messages
                 where ended_at < now() - make_interval(secs => $1)
                   and (status = 'resolved'
                        or status = 'discarded' and ended_at < now() - make_interval(secs => $2)) limit $3))
           and ended_at < now() - make_interval(secs => $1)
           and (status = 'resolved' or status = 'discarded' and ended_at < now() - make_interval(secs => $2))",
        seconds(retention.failures),
        seconds(retention.inbox),
        PURGE_SIZE,
    );
    let ended = failures.execute(&mut *connection).await?.rows_affected();
    // Starts of messages that were removed from their queue by other tools never end.
    let starts = sqlx::query!(
        "delete from message_starts where started_at < now() - make_interval(secs => $1)",
        seconds(retention.inbox),
    );
    let message_starts = starts.execute(&mut *connection).await?.rows_affected();
    let published = purge_published(connection, retention).await?;
    publish_lost_again(connection).await?;
    release_forgotten(connection).await?;
    purge_processes(connection).await?;
    Ok(Purge {
        rows: PurgedRows {
            inbox: handled,
            failed_messages: ended,
            message_starts,
            published_events: published,
        },
        is_incomplete: handled.max(ended).max(published) >= PURGE_SIZE.unsigned_abs(),
    })
}

/// A copy that is not handled yet may have been lost with its queue. A second copy is harmless, but without a running
/// worker copies would accumulate: they are published after 1, 2, 4, 8 hours.
async fn publish_lost_again(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let lost = sqlx::query!(
        "update failed_messages set published_at = null
         where status = 'retrying' and published_at < now() - interval '1 hour'
           and now() - published_at > published_at - due_at"
    );
    lost.execute(connection).await?;
    Ok(())
}

/// Removes processes that ended long ago.
async fn purge_processes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let processes = sqlx::query!("delete from processes where seen_at < now() - interval '30 days'");
    processes.execute(connection).await?;
    Ok(())
}

/// Removes events that were published long ago.
async fn purge_published(connection: &mut PgConnection, retention: Retention) -> Result<u64, sqlx::Error> {
    let published = sqlx::query!(
        "delete from published_events where ctid = any(array(
             select ctid from published_events where committed_at < now() - make_interval(secs => $1)
             order by committed_at limit $2))",
        seconds(retention.published),
        PURGE_SIZE,
    );
    Ok(published.execute(connection).await?.rows_affected())
}

/// A process of an earlier version that ends a message releases none that wait for it.
async fn release_forgotten(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let waiting = sqlx::query_scalar!(
        r#"select distinct key as "key!" from failed_messages where status = 'waiting' and key is not null"#
    );
    let keys = waiting.fetch_all(&mut *connection).await?.into_iter().map(OrderingKey::from_stored);
    failed_messages::release(connection, &keys.collect::<Vec<_>>()).await?;
    Ok(())
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
