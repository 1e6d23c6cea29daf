//! Would the checker notice? After a run without findings the tables are made wrong in a few ways, each in a transaction
//! that is rolled back, and each must be found.

use sqlx::{Connection as _, PgConnection};

use super::{
    journal::History,
    outcomes::{Findings, judge},
};
use crate::world::World;

/// What is made wrong, by which statement, and what the checker must find then.
type Mistake = (&'static str, &'static str, fn(&Findings) -> bool);

const MISTAKES: [Mistake; 6] = [
    (
        "a handled message that the inbox does not know",
        "delete from inbox where ctid = (select i.ctid from inbox i where not exists (
             select from journal j where j.about = 'failed_messages' and j.after ->> 'message_id' = i.message_id
         ) order by message_id limit 1)",
        |findings| !findings.lost.is_empty(),
    ),
    (
        "a handled message whose line is gone",
        "delete from order_lines where ctid = (select l.ctid from order_lines l where orderid not like 'anchor-%'
             order by orderid limit 1)",
        |findings| !findings.complaints.is_empty(),
    ),
    (
        "an event that was written twice",
        "insert into journal (about, op, after)
         select about, op, (after::jsonb || jsonb_build_object('event_id', gen_random_uuid()))::json from journal j
         where about = 'outbox' and after ->> 'name' = 'allocated' and exists (
             select from sendings s where s.message_id = j.after ->> 'causation_id' and s.type = 'allocate'
         ) order by id limit 1",
        |findings| !findings.double.is_empty(),
    ),
    (
        "a dead message that is called resolved",
        "update failed_messages set status = 'resolved', reason = null, ended_at = now()
         where id = (select id from failed_messages where status = 'dead' order by id limit 1)",
        |findings| !findings.lost.is_empty(),
    ),
    (
        "a dead message that was handled",
        "insert into inbox (queue, message_id, fingerprint)
         select queue, message_id, fingerprint from failed_messages f where status = 'dead' and message_id is not null
             and not exists (select from inbox i where i.queue = f.queue and i.message_id = f.message_id)
         order by id limit 1",
        |findings| !findings.double.is_empty(),
    ),
    (
        "a discarded message that was sent again in vain",
        "with discarded as (
             update failed_messages set status = 'discarded', ended_at = now()
             where id = (select id from failed_messages where status = 'dead' and message_id is not null
                         order by id limit 1)
             returning queue, type, message_id, body
         ), later as (select queue, type, message_id, body, nextval('journal_id_seq') + 1000 as position from discarded)
         insert into sendings (position, queue, type, message_id, body)
         select position, queue, type, message_id, body from later",
        |findings| !findings.lost.is_empty(),
    ),
];

/// Which of the mistakes the checker does not notice; and how many there were something to make wrong of.
pub(super) async fn unnoticed(world: &World<'_>) -> anyhow::Result<(Vec<String>, usize)> {
    let mut connection = PgConnection::connect(&world.database_url()).await?;
    let (mut unnoticed, mut made) = (Vec::new(), 0);
    for (mistake, statement, is_noticed) in MISTAKES {
        let mut transaction = connection.begin().await?;
        if sqlx::query(statement).execute(&mut *transaction).await?.rows_affected() > 0 {
            made += 1;
            if !is_noticed(&judge(&History::read(&mut transaction).await?)) {
                unnoticed.push(format!("the checker does not notice {mistake}"));
            }
        }
        transaction.rollback().await?;
    }
    Ok((unnoticed, made))
}
