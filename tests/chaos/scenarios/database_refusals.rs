//! PostgreSQL that is there and says no: too busy, too full, in conflict, or to this role.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::worker_deaths::SOON;
use crate::{
    command::{allocate, lines_of},
    lab::{CLERK, Lab},
    program::Program,
    verdict::Verdict,
    wait::{until, until_is},
    world::World,
};

/// How long a refusal lasts after it was noticed.
const LASTS: Duration = Duration::from_secs(2);

pub(super) async fn connections_exhausted(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "connections_exhausted").await?;
    clerk_refused(world, "alter role clerk connection limit 1", "alter role clerk connection limit -1").await
}

pub(super) async fn role_locked_out(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "role_locked_out").await?;
    clerk_refused(world, "alter role clerk nologin", "alter role clerk login").await
}

/// A process under a role of its own, whose sessions end and may not come back for a while.
async fn clerk_refused(world: World<'_>, refuse: &str, allow: &str) -> anyhow::Result<Verdict> {
    let url = world.lab.postgres.url(CLERK, &world.database);
    let mut program = world.start("worker,relay", &[("DATABASE_URL", &url)])?;
    world.send(&lines_of("LAMP", "before", 10)).await?;
    world.wait_handled(10).await?;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'clerk'";
    world.execute(refuse).await?;
    world.execute(end).await?;
    world.send(&lines_of("LAMP", "meanwhile", 50)).await?;
    refused(&world, &program).await?;
    world.execute(allow).await?;
    world.wait_handled(60).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

/// It says once that it waits, and it waits quietly.
async fn refused(world: &World<'_>, program: &Program) -> anyhow::Result<()> {
    let noticed = async || anyhow::Ok(program.log().contains("waiting for the database"));
    until("it waits for the database", world.lab.patience(), noticed).await?;
    tokio::time::sleep(LASTS).await; // the fault takes so long; nothing is waited for
    world.hit("waits for the database".into());
    let lines = program.log().lines().count();
    world.expect("a quiet log", &(lines < 100), &true);
    Ok(())
}

/// Two sessions and a unit of work wait for each other in a circle; the unit of work, which closes it, is told so, and
/// is done again at once.
///
/// Products are taken in the order of their names. While the stool's unit of work waits, enough comes together behind
/// it for the next one to need a desk, a lamp and a shelf.
pub(super) async fn deadlock(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "deadlock").await?;
    let skus = ["LAMP", "DESK", "SHELF"];
    let lines: Vec<_> = (0..42).map(|i| allocate(&format!("line-{i}"), skus[i % 3], 1)).collect();
    let (mut holder, mut rival) = (session(&world).await?, session(&world).await?);
    sqlx::raw_sql(RIVAL).execute(&mut rival).await?;
    hold(&mut holder, "STOOL").await?;
    let one_lane = [("ALLOCATION__WORKER__PARTITIONS", "1"), ("ALLOCATION__WORKER__MAX_BATCH", "10")];
    let program = world.start("worker,relay", &one_lane)?;
    world.send(&[allocate("first", "STOOL", 1)]).await?;
    waits_for_a_lock(&world, OURS_WAITS).await?;
    world.send(&lines).await?;
    until_is("all is handed out", lab.patience(), &0, async || world.ready().await).await?;
    // Nobody else wants them yet.
    hold(&mut rival, "SHELF").await?;
    let mut next_holder = session(&world).await?;
    hold(&mut next_holder, "LAMP").await?;
    sqlx::raw_sql("rollback").execute(&mut holder).await?;
    world.wait_handled(1).await?;
    waits_for_a_lock(&world, OURS_WAITS).await?;
    close_the_circle(&world, &mut rival, &mut next_holder).await?;
    sqlx::raw_sql("rollback").execute(&mut rival).await?;
    world.wait_handled(lines.len() + 1).await?;
    let counted = async || anyhow::Ok(deadlocks(&world).await? > 0);
    until("the server counts the deadlock", lab.patience(), counted).await?;
    world.hit("a deadlock".into());
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    for session in [holder, rival, next_holder] {
        session.close().await?;
    }
    world.finish(vec![program]).await
}

/// It looks for deadlocks so late that it is never the one who is told; the program looks after a second.
const RIVAL: &str = "set deadlock_timeout = '5min'; set application_name = 'rival'";
const OURS_WAITS: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                          and datname = current_database() and application_name = 'allocation'";
const RIVAL_WAITS: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                           and datname = current_database() and application_name = 'rival'";

/// The rival has a shelf and waits for the desk of the program, which waits for the holder's lamp: when it gets that,
/// it goes on to the shelf. The rival has the desk when the program has given up.
async fn close_the_circle(
    world: &World<'_>,
    rival: &mut PgConnection,
    holder: &mut PgConnection,
) -> anyhow::Result<()> {
    let release = async {
        waits_for_a_lock(world, RIVAL_WAITS).await?;
        sqlx::raw_sql("rollback").execute(holder).await?;
        anyhow::Ok(())
    };
    tokio::try_join!(hold(rival, "DESK"), release).map(drop)
}

async fn session(world: &World<'_>) -> anyhow::Result<PgConnection> {
    let mut session = PgConnection::connect(&world.database_url()).await?;
    sqlx::raw_sql("begin").execute(&mut session).await?;
    Ok(session)
}

/// Takes a product in a transaction.
async fn hold(session: &mut PgConnection, sku: &str) -> anyhow::Result<()> {
    sqlx::query("select from products where sku = $1 for update").bind(sku).execute(session).await?;
    Ok(())
}

async fn waits_for_a_lock(world: &World<'_>, who_waits: &'static str) -> anyhow::Result<()> {
    let waits = async || anyhow::Ok(world.count(who_waits).await? > 0);
    until("somebody waits for a lock", world.lab.patience(), waits).await.map(drop)
}

async fn deadlocks(world: &World<'_>) -> anyhow::Result<i64> {
    world.count("select deadlocks from pg_stat_database where datname = current_database()").await
}

pub(super) async fn serialization_failure(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "serialization_failure").await?;
    world
        .execute(
            "create sequence failures; grant all on sequence failures to clerk;
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
    let program = world.start("worker,relay", &[])?;
    world.send(&lines_of("LAMP", "line", 20)).await?;
    world.wait_handled(20).await?;
    let failures = world.count("select last_value from failures").await?;
    world.hit("three conflicts".into());
    world.expect("conflicts", &(failures > 3), &true);
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program]).await
}

/// A trigger that refuses every new line like this.
async fn refuse_lines(world: &World<'_>, raise: &str) -> anyhow::Result<()> {
    let statements = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin {raise}; end $$;
         create trigger refuses before insert on order_lines for each row execute function refuse();"
    );
    world.execute(&statements).await
}

const ALLOW_LINES: &str = "drop trigger refuses on order_lines; drop function refuse()";

pub(super) async fn disk_full(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "disk_full").await?;
    refuse_lines(&world, "raise exception 'no space left on device' using errcode = '53100'").await?;
    let program = world.start("worker,relay", &[])?;
    world.send(&lines_of("LAMP", "line", 20)).await?;
    refused(&world, &program).await?;
    world.execute(ALLOW_LINES).await?;
    world.wait_handled(20).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program]).await
}

/// A synchronous standby is lost: the server answers every question, and no commit.
pub(super) async fn standby_lost(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "standby_lost").await?;
    let impatient = [("ALLOCATION__DATABASE__TIMEOUT", "2s"), ("ALLOCATION__WORKER__REQUEUE_AFTER", "3s")];
    let program = world.start("worker,relay", &impatient)?;
    world.send(&lines_of("LAMP", "before", 5)).await?;
    world.drained().await?;
    world.execute("alter system set synchronous_standby_names = 'lost'").await?;
    world.execute("select pg_reload_conf()").await?;
    world.send(&lines_of("LAMP", "meanwhile", 20)).await?;
    let returned = async || anyhow::Ok(program.log().contains("handing messages back"));
    let returned = until("messages are handed back", lab.patience(), returned).await;
    world.execute("alter system reset synchronous_standby_names").await?;
    world.execute("select pg_reload_conf()").await?;
    returned?;
    world.hit("no commit was answered".into());
    world.wait_handled(25).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.finish(vec![program]).await
}

/// The ledger keeps the beginning, no connection breaks over the rest, and an operator brings everything back.
pub(super) async fn huge_error_text(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "huge_error_text").await?;
    refuse_lines(&world, "raise exception '%', repeat('secret ', 200000) using errcode = 'P0001'").await?;
    let twice = [&SOON[..2], &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "2")]].concat();
    let mut program = world.start("worker,relay", &twice)?;
    world.send(&lines_of("LAMP", "line", 3)).await?;
    let dead = "select count(*) from failed_messages where status = 'dead' and reason = 'attempts_exhausted'";
    until_is("they are dead", lab.patience(), &3, async || world.count(dead).await).await?;
    let longest = "select max(length(error))::bigint from failed_attempts";
    let longest = world.count(longest).await?;
    world.hit(format!("an error of {longest} characters kept"));
    world.expect("the error is cut", &(longest <= 2000), &true);
    world.expect(
        "the broker was there all the time",
        &program.log().contains("waiting for the broker"),
        &false,
    );
    world.execute(ALLOW_LINES).await?;
    world.cli(&["dead-letters", "retry", "--all"]).await?.exits(0)?;
    world.wait_handled(3).await?;
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}
