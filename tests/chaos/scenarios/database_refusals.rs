//! PostgreSQL is available but rejects work: too many connections, a full disk, a conflict, or a role without login.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::worker_crashes::FAST_RETRY;
use crate::{
    check_report::CheckReport,
    cluster::{Cluster, LIMITED_USER},
    command::{allocate, order_lines},
    program::Program,
    test_system::TestSystem,
    wait::{wait_until, wait_until_equal},
};

/// How long a refusal lasts after the program detected it.
const REFUSAL_DURATION: Duration = Duration::from_secs(2);

pub(super) async fn connections_exhausted(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "connections_exhausted").await?;
    limited_user_refused(
        system,
        "alter role limited_user connection limit 1",
        "alter role limited_user connection limit -1",
    )
    .await
}

pub(super) async fn database_login_revoked(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "database_login_revoked").await?;
    limited_user_refused(system, "alter role limited_user nologin", "alter role limited_user login").await
}

/// A process with a limited role, whose sessions are terminated and may not be opened again for a while.
async fn limited_user_refused(
    system: TestSystem<'_>,
    revoke: &str,
    restore: &str,
) -> anyhow::Result<CheckReport> {
    let url = system.cluster.postgres.url(LIMITED_USER, &system.database);
    let mut program = system.start("worker,relay", &[("DATABASE_URL", &url)])?;
    system.send(&order_lines("LAMP", "before", 10)).await?;
    system.wait_handled(10).await?;
    let terminate_sessions =
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'limited_user'";
    system.execute(revoke).await?;
    system.execute(terminate_sessions).await?;
    system.send(&order_lines("LAMP", "meanwhile", 50)).await?;
    wait_for_outage(&system, &program).await?;
    system.execute(restore).await?;
    system.wait_handled(60).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// The process logs the outage once, and stays quiet.
async fn wait_for_outage(system: &TestSystem<'_>, program: &Program) -> anyhow::Result<()> {
    let logged = async || anyhow::Ok(program.has_logged_outage_of("database"));
    wait_until("the outage is logged", system.cluster.timeout(), logged).await?;
    tokio::time::sleep(REFUSAL_DURATION).await; // the duration of the fault; not a wait for a condition
    system.add_evidence("outage of the database detected".into());
    let lines = program.log().lines().count();
    system.expect("few log lines", &(lines < 100), &true);
    Ok(())
}

/// Two sessions and a unit of work wait for each other in a cycle. The unit of work closes the cycle, gets the
/// deadlock error, and is retried at once.
///
/// Products are locked in the order of their names. While the unit of work with the stool waits, enough commands
/// arrive for the next one to need a desk, a lamp and a shelf.
pub(super) async fn deadlock(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "deadlock").await?;
    let skus = ["LAMP", "DESK", "SHELF"];
    let lines: Vec<_> = (0..42).map(|i| allocate(&format!("line-{i}"), skus[i % 3], 1)).collect();
    let (mut holder, mut rival) = (open_transaction(&system).await?, open_transaction(&system).await?);
    sqlx::raw_sql(RIVAL).execute(&mut rival).await?;
    lock_product(&mut holder, "STOOL").await?;
    let one_partition = [("ALLOCATION__WORKER__PARTITIONS", "1"), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let program = system.start("worker,relay", &one_partition)?;
    system.send(&[allocate("first", "STOOL", 1)]).await?;
    wait_for_lock(&system, PROGRAM_WAITS).await?;
    system.send(&lines).await?;
    wait_until_equal("all messages are delivered", cluster.timeout(), &0, async || {
        system.ready_commands().await
    })
    .await?;
    // No other session has locked them yet.
    lock_product(&mut rival, "SHELF").await?;
    let mut next_holder = open_transaction(&system).await?;
    lock_product(&mut next_holder, "LAMP").await?;
    sqlx::raw_sql("rollback").execute(&mut holder).await?;
    system.wait_handled(1).await?;
    wait_for_lock(&system, PROGRAM_WAITS).await?;
    close_the_cycle(&system, &mut rival, &mut next_holder).await?;
    sqlx::raw_sql("rollback").execute(&mut rival).await?;
    system.wait_handled(lines.len() + 1).await?;
    let counted = async || anyhow::Ok(deadlock_count(&system).await? > 0);
    wait_until("the server counts the deadlock", cluster.timeout(), counted).await?;
    system.add_evidence("a deadlock".into());
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    for session in [holder, rival, next_holder] {
        session.close().await?;
    }
    system.finish(vec![program]).await
}

/// Its deadlock check is so late that the program always gets the error; the program's check is after one second.
const RIVAL: &str = "set deadlock_timeout = '5min'; set application_name = 'rival'";
const PROGRAM_WAITS: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                             and datname = current_database() and application_name ~ '^allocation( relay.*)?$'";
const RIVAL_WAITS: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                           and datname = current_database() and application_name = 'rival'";

/// The rival holds the shelf and waits for the desk of the program, which waits for the lamp of the holder. When the
/// lamp is released, the program waits for the shelf. The rival gets the desk when the program has rolled back.
async fn close_the_cycle(
    system: &TestSystem<'_>,
    rival: &mut PgConnection,
    holder: &mut PgConnection,
) -> anyhow::Result<()> {
    let release = async {
        wait_for_lock(system, RIVAL_WAITS).await?;
        sqlx::raw_sql("rollback").execute(holder).await?;
        anyhow::Ok(())
    };
    tokio::try_join!(lock_product(rival, "DESK"), release).map(drop)
}

async fn open_transaction(system: &TestSystem<'_>) -> anyhow::Result<PgConnection> {
    let mut session = PgConnection::connect(&system.database_url()).await?;
    sqlx::raw_sql("begin").execute(&mut session).await?;
    Ok(session)
}

/// Locks a product in a transaction.
async fn lock_product(session: &mut PgConnection, sku: &str) -> anyhow::Result<()> {
    sqlx::query("select from products where sku = $1 for update").bind(sku).execute(session).await?;
    Ok(())
}

async fn wait_for_lock(system: &TestSystem<'_>, query: &'static str) -> anyhow::Result<()> {
    let waits = async || anyhow::Ok(system.count(query).await? > 0);
    wait_until("a session waits for a lock", system.cluster.timeout(), waits).await.map(drop)
}

async fn deadlock_count(system: &TestSystem<'_>) -> anyhow::Result<i64> {
    system.count("select deadlocks from pg_stat_database where datname = current_database()").await
}

pub(super) async fn serialization_failure(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "serialization_failure").await?;
    system
        .execute(
            "create sequence failures; grant all on sequence failures to limited_user;
             create function fail_thrice() returns trigger language plpgsql as $$
             begin
                 if nextval('failures') <= 3 then
                     raise exception 'could not serialize' using errcode = '40001';
                 end if;
                 return new;
             end $$;
             create trigger fails before insert on order_lines for each row execute function fail_thrice();",
        )
        .await?;
    let program = system.start("worker,relay", &[])?;
    system.send(&order_lines("LAMP", "line", 20)).await?;
    system.wait_handled(20).await?;
    let failures = system.count("select last_value from failures").await?;
    system.add_evidence("three conflicts".into());
    system.expect("conflicts", &(failures > 3), &true);
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

/// A trigger that rejects every new line with this error.
async fn reject_new_lines(system: &TestSystem<'_>, raise: &str) -> anyhow::Result<()> {
    let statements = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin {raise}; end $$;
         create trigger refuses before insert on order_lines for each row execute function refuse();"
    );
    system.execute(&statements).await
}

const ACCEPT_NEW_LINES: &str = "drop trigger refuses on order_lines; drop function refuse()";

pub(super) async fn disk_full(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "disk_full").await?;
    reject_new_lines(&system, "raise exception 'no space left on device' using errcode = '53100'").await?;
    let program = system.start("worker,relay", &[])?;
    system.send(&order_lines("LAMP", "line", 20)).await?;
    wait_for_outage(&system, &program).await?;
    system.execute(ACCEPT_NEW_LINES).await?;
    system.wait_handled(20).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

/// A synchronous standby is unavailable: the server answers queries but completes no commit.
pub(super) async fn standby_lost(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "standby_lost").await?;
    let environment = [("ALLOCATION__DATABASE__TIMEOUT", "2s"), ("ALLOCATION__WORKER__REQUEUE_AFTER", "3s")];
    let program = system.start("worker,relay", &environment)?;
    system.send(&order_lines("LAMP", "before", 5)).await?;
    system.wait_until_drained().await?;
    system.execute("alter system set synchronous_standby_names = 'lost'").await?;
    system.execute("select pg_reload_conf()").await?;
    system.send(&order_lines("LAMP", "meanwhile", 20)).await?;
    let returned = wait_for_return(&system).await;
    system.execute("alter system reset synchronous_standby_names").await?;
    system.execute("select pg_reload_conf()").await?;
    returned?;
    system.add_evidence("no commit completed".into());
    system.wait_handled(25).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

/// Waits until the worker has received all messages, and then returned them to the queue.
async fn wait_for_return(system: &TestSystem<'_>) -> anyhow::Result<()> {
    let timeout = system.cluster.timeout();
    let ready = async || system.ready_commands().await;
    wait_until_equal("all messages are delivered", timeout, &0, ready).await?;
    let returned = async || anyhow::Ok(system.ready_commands().await? > 0);
    wait_until("messages are returned to the queue", timeout, returned).await.map(drop)
}

/// The start of the error is stored, no connection fails because of its size, and a retry succeeds afterwards.
pub(super) async fn large_error_text(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "large_error_text").await?;
    reject_new_lines(&system, "raise exception '%', repeat('secret ', 200000) using errcode = 'P0001'")
        .await?;
    let two_attempts = [&FAST_RETRY[..2], &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "2")]].concat();
    let mut program = system.start("worker,relay", &two_attempts)?;
    system.send(&order_lines("LAMP", "line", 3)).await?;
    let dead = "select count(*) from failed_messages where status = 'dead' and reason = 'attempts_exhausted'";
    wait_until_equal("the messages are dead", cluster.timeout(), &3, async || system.count(dead).await)
        .await?;
    let longest = "select max(length(error))::bigint from failed_attempts";
    let longest = system.count(longest).await?;
    system.add_evidence(format!("an error of {longest} characters stored"));
    system.expect("the error is truncated", &(longest <= 2000), &true);
    system.expect("an outage of the broker", &program.has_logged_outage_of("broker"), &false);
    system.execute(ACCEPT_NEW_LINES).await?;
    system.cli(&["dead-letters", "retry", "--all"]).await?.ensure_exit_code(0)?;
    system.wait_handled(3).await?;
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}
