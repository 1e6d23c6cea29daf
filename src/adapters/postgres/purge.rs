//! Upkeep, a little at a time: what nobody needs any more is removed, what was lost on its way is sent again.

use std::time::Duration;

use sqlx::PgConnection;

use crate::ports::outbox::Retention;

/// Rows of one table that one call removes: few enough that nobody waits for it.
const AT_ONCE: i64 = 5000;

/// Removes handled messages and ended failures that are old enough, and sends retries again that were not handled within an
/// hour; true if there may be more.
pub(super) async fn purge_expired(
    connection: &mut PgConnection,
    retention: Retention,
) -> Result<bool, sqlx::Error> {
    // An id stays as long as another message that has it, edited perhaps, may still be retried.
    let inbox = sqlx::query!(
        "delete from inbox where ctid = any(array(
             select ctid from inbox i where handled_at < now() - make_interval(secs => $1)
               and not exists (select from failed_messages f
                               where f.queue = i.queue and coalesce(f.message_id, '') = i.message_id
                                 and f.status <> 'resolved')
             order by handled_at limit $2))",
        seconds(retention.inbox),
        AT_ONCE,
    );
    let handled = inbox.execute(&mut *connection).await?.rows_affected();
    // The condition once more: of a row that changed while it was waited for, it is judged again.
    let failures = sqlx::query!(
        "delete from failed_messages
         where id = any(array(
                 select id from failed_messages
                 where ended_at < now() - make_interval(secs => $1) and status in ('resolved', 'discarded') limit $2))
           and ended_at < now() - make_interval(secs => $1) and status in ('resolved', 'discarded')",
        seconds(retention.failures),
        AT_ONCE,
    );
    let ended = failures.execute(&mut *connection).await?.rows_affected();
    // Starts of messages that somebody took out of their queue never end.
    let starts = sqlx::query!(
        "delete from message_starts where started_at < now() - make_interval(secs => $1)",
        seconds(retention.inbox),
    );
    starts.execute(&mut *connection).await?;
    // A copy that is still not handled may have been lost with its queue. Another one does no harm, but where no worker
    // runs they would pile up: they go out after 1, 2, 4, 8 hours.
    let lost = sqlx::query!(
        "update failed_messages set published_at = null
         where status = 'retrying' and published_at < now() - interval '1 hour'
           and now() - published_at > published_at - due_at"
    );
    lost.execute(connection).await?;
    Ok(handled.max(ended) >= AT_ONCE.unsigned_abs())
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
