//! Tests the checker itself: after a run without findings the tables are changed in several wrong ways, each in a
//! transaction that is rolled back, and each must be detected.

use sqlx::{Connection as _, PgConnection};

use super::{
    journal::History,
    outcomes::{Findings, check},
};
use crate::test_system::TestSystem;

/// The wrong change, its statement, and the finding that it must cause.
type Mutation = (&'static str, &'static str, fn(&Findings) -> bool);

const MUTATIONS: [Mutation; 6] = [
    (
        "a handled message that is missing in the inbox",
        "delete from inbox where ctid = (select i.ctid from inbox i where not exists (
             select from journal j where j.table_name = 'failed_messages' and j.after ->> 'message_id' = i.message_id
         ) order by message_id limit 1)",
        |findings| !findings.lost.is_empty(),
    ),
    (
        "a handled message without its line",
        "delete from order_lines where ctid = (select l.ctid from order_lines l where orderid not like 'initial-%'
             order by orderid limit 1)",
        |findings| !findings.violations.is_empty(),
    ),
    (
        "an event that was written twice",
        "insert into journal (table_name, op, after)
         select table_name, op, (after::jsonb || jsonb_build_object('event_id', gen_random_uuid()))::json from journal j
         where table_name = 'outbox' and after ->> 'name' = 'allocated' and exists (
             select from sent_messages s where s.message_id = j.after ->> 'causation_id' and s.type = 'allocate'
         ) order by id limit 1",
        |findings| !findings.repeated.is_empty(),
    ),
    (
        "a dead message with the status resolved",
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
        |findings| !findings.repeated.is_empty(),
    ),
    (
        "a discarded message that was sent again without an outcome",
        "with discarded as (
             update failed_messages set status = 'discarded', ended_at = now()
             where id = (select id from failed_messages where status = 'dead' and message_id is not null
                         order by id limit 1)
             returning queue, type, message_id, body
         ), later as (select queue, type, message_id, body, nextval('journal_id_seq') + 1000 as position from discarded)
         insert into sent_messages (position, queue, type, message_id, body)
         select position, queue, type, message_id, body from later",
        |findings| !findings.lost.is_empty(),
    ),
];

/// The undetected mutations, and the number of applied ones.
pub(super) async fn undetected(system: &TestSystem<'_>) -> anyhow::Result<(Vec<String>, usize)> {
    let mut connection = PgConnection::connect(&system.database_url()).await?;
    let (mut undetected, mut applied) = (Vec::new(), 0);
    for (mutation, statement, is_detected) in MUTATIONS {
        let mut transaction = connection.begin().await?;
        if sqlx::query(statement).execute(&mut *transaction).await?.rows_affected() > 0 {
            applied += 1;
            if !is_detected(&check(&History::read(&mut transaction).await?)) {
                undetected.push(format!("the checker does not detect {mutation}"));
            }
        }
        transaction.rollback().await?;
    }
    Ok((undetected, applied))
}
