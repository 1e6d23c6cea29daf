//! Which session is the leader of the relays.
//!
//! The leader is named in a row, and leads as long as its session exists: a role without the privilege to update this row
//! cannot be leader and cannot prevent one. The session is known by its process id, its role and its application name, which has a
//! random part: a pooler that gives the session to another client resets the name.

use std::{fmt, time::Duration};

use sqlx::{Connection as _, PgConnection};

use super::commit_signal::CHANNEL;

/// The advisory lock of the leader in earlier versions: "relay" in ASCII.
const FORMER_LOCK: i64 = 0x72_65_6c_61_79;
/// A leader whose session was silent for longer, several poll intervals, is unresponsive.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(3);

/// A session that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    pid: i32,
    role: String,
    application: String,
    since: String,
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, role, application, since } = self;
        write!(f, "pid {pid}, role {role:?}, application {application:?}, since {since}")
    }
}

/// Gives a session the name under which it may lead.
pub(super) async fn name_session(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let name = "select set_config('application_name',
                                  'allocation relay ' || left(md5(gen_random_uuid()::text), 8), false)";
    sqlx::query(name).execute(connection).await?;
    Ok(())
}

/// Makes a named session the leader, unless another session is.
pub(super) async fn claim(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // Under the lock of the row, and by statements of their own: the sessions are seen as they are after the last claim.
    let locked = sqlx::query_scalar!("select only_row from relay_state for update skip locked");
    if locked.fetch_optional(&mut *transaction).await?.is_none()
        || former_leader_exists(&mut transaction).await?
    {
        return Ok(false);
    }
    let claimed = sqlx::query!(
        "update relay_state
         set led_by_pid = own.pid, led_by_role = own.usesysid, led_by_application = own.application_name,
             led_since = clock_timestamp()
         from pg_stat_activity own
         where own.pid = pg_backend_pid() and not exists (
             select from pg_stat_activity leader
             where leader.pid = led_by_pid and leader.usesysid = led_by_role
               and leader.application_name = led_by_application
         )",
    );
    let claimed = claimed.execute(&mut *transaction).await?.rows_affected() == 1;
    transaction.commit().await?;
    Ok(claimed)
}

/// Whether a relay of an earlier version leads. Takes its lock, if it is free, so that none will. Only a session with the
/// privileges of a relay counts: every role can take an advisory lock.
async fn former_leader_exists(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "taken!""#, FORMER_LOCK);
    if taken.fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let holder = sqlx::query_scalar!(
        r#"select exists (
               select from pg_locks held join pg_stat_activity session using (pid)
               where held.locktype = 'advisory' and held.granted and held.objsubid = 1 and held.pid <> pg_backend_pid()
                 and held.database = (select oid from pg_database where datname = current_database())
                 and (held.classid::bigint << 32 | held.objid::bigint) = $1
                 and has_table_privilege(session.usesysid, 'relay_state', 'update')
           ) as "exists!""#,
        FORMER_LOCK,
    );
    holder.fetch_one(connection).await
}

/// Ends the leadership of a session, and wakes the other relays up.
pub(super) async fn release(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update relay_state set led_by_pid = null, led_by_role = null, led_by_application = null, led_since = null
         where led_by_pid = pg_backend_pid()",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("select pg_advisory_unlock($1), pg_notify($2, '')")
        .bind(FORMER_LOCK)
        .bind(CHANNEL)
        .execute(connection)
        .await?;
    Ok(())
}

/// The session that leads.
pub(super) async fn leader(connection: &mut PgConnection) -> Result<Option<Leader>, sqlx::Error> {
    sqlx::query_as!(
        Leader,
        r#"select session.pid as "pid!", coalesce(session.usename, '') as "role!",
                  session.application_name as "application!",
                  to_char(led_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as "since!"
           from relay_state join pg_stat_activity session
             on session.pid = led_by_pid and session.usesysid = led_by_role
            and session.application_name = led_by_application"#,
    )
    .fetch_optional(connection)
    .await
}

/// Terminates the leader's session if its process no longer uses it, because it is stopped or its machine is
/// unreachable. A process that continues later can remove nothing from the outbox.
pub(super) async fn terminate_unresponsive_leader(
    connection: &mut PgConnection,
) -> Result<bool, sqlx::Error> {
    let terminated = sqlx::query_scalar!(
        r#"select pg_terminate_backend(session.pid) as "ended!"
           from relay_state join pg_stat_activity session
             on session.pid = led_by_pid and session.usesysid = led_by_role
            and session.application_name = led_by_application
           where session.state <> 'active' and session.state_change < now() - make_interval(secs => $1)
              or session.wait_event = 'ClientWrite' and session.query_start < now() - make_interval(secs => $1)"#,
        UNRESPONSIVE_AFTER.as_secs_f64(),
    );
    Ok(terminated.fetch_optional(connection).await?.unwrap_or(false))
}
