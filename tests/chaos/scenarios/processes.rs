//! Processes that are suspended, restarted, out of date, or out of resources.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::{
    check_report::CheckReport, cluster::Cluster, command::order_lines, command_load::CommandLoad,
    program::Program, proxy::Proxy, test_system::TestSystem, wait::wait_until,
};

/// The exit code after a second signal.
const EXIT_CODE_SECOND_SIGNAL: i32 = 130;
/// The log message after the first signal.
const STOPPING: &str = "shutting down";
/// The number of restarts.
const RESTARTS: usize = 10;

/// A worker is suspended during a transaction, another one handles its messages, and the first resumes.
pub(super) async fn worker_suspended_and_resumed(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "worker_suspended_and_resumed").await?;
    let url = format!("{}?heartbeat=2", cluster.rabbit.url());
    let small_batches = ("ALLOCATION__WORKER__MAX_BATCH", "5");
    let suspended = system.start("worker,relay", &[("AMQP_URL", &url), small_batches])?;
    let mut load = CommandLoad::seeded(13);
    let portion = load.next_commands(300);
    let stop = async {
        system.wait_for_progress(0).await?;
        suspended.signal(Signal::STOP)
    };
    let (sent, suspension) = tokio::join!(system.send(&portion), stop);
    sent?;
    suspension?;
    let in_flight = system.in_flight().await?;
    system.expect("unacknowledged messages", &(in_flight > 0), &true);
    let replacement = system.start("worker,relay", &[("AMQP_URL", &url)])?;
    let redelivered = async || anyhow::Ok(system.redeliveries().await? > 0);
    let redelivered = wait_until("its messages are redelivered", Duration::from_secs(30), redelivered).await;
    suspended.signal(Signal::CONT)?;
    system.add_evidence(format!("redelivered after {} s", redelivered?.as_secs()));
    system.wait_handled(300).await?;
    system.finish(vec![suspended, replacement]).await
}

/// A stopping process finishes its current work and returns the other messages; the next process handles them.
pub(super) async fn rolling_restarts(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "rolling_restarts").await?;
    let small_batches = [("ALLOCATION__WORKER__MAX_BATCH", "5")];
    let mut program = system.start("worker,relay", &small_batches)?;
    let mut load = CommandLoad::seeded(47);
    for _ in 0..RESTARTS {
        let (before, portion) = (system.handled().await?, load.next_commands(100));
        let stop = async {
            system.wait_for_progress(before).await?;
            let in_flight = system.in_flight().await?;
            program.signal(Signal::TERM)?;
            anyhow::Ok(in_flight)
        };
        let (sent, in_flight) = tokio::join!(system.send(&portion), stop);
        sent?;
        if in_flight? > 0 {
            system.add_evidence("stopped with messages in flight".into());
        }
        let status = program.wait_for_exit().await?;
        system.expect("a stopped process ended successfully", &status.success(), &true);
        program = system.start("worker,relay", &small_batches)?;
        system.wait_until_drained().await?;
        load.mark_handled();
    }
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.finish(vec![program]).await
}

/// A second signal ends a process that cannot finish its current work.
pub(super) async fn second_signal(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "second_signal").await?;
    let proxy = Proxy::start(&system.database_url()).await?;
    let mut program = system.start("worker,relay", &[("DATABASE_URL", proxy.url())])?;
    system.wait_until_consuming().await?;
    proxy.freeze(true);
    system.send(&order_lines("LAMP", "line", 50)).await?;
    wait_until("all messages are delivered", cluster.timeout(), async || {
        anyhow::Ok(system.ready_commands().await? == 0)
    })
    .await?;
    system.add_evidence("50 unacknowledged messages".into());
    program.signal(Signal::TERM)?;
    let stopping = async || anyhow::Ok(program.log().contains(STOPPING));
    wait_until("the first signal is logged", cluster.timeout(), stopping).await?;
    system.expect("alive after the first signal", &program.is_alive(), &true);
    program.signal(Signal::TERM)?;
    system.expect("exit code", &program.wait_for_exit().await?.code(), &Some(EXIT_CODE_SECOND_SIGNAL));
    drop(proxy);
    let next = system.start_all_roles()?;
    system.finish(vec![next]).await
}

/// Three concurrent migrations all succeed. No process runs on a newer schema.
pub(super) async fn concurrent_migrations(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "concurrent_migrations").await?;
    let new_database = format!("{}_new", system.database);
    let url = cluster.postgres.url("postgres", &new_database);
    let mut migrations = Vec::new();
    for _ in 0..3 {
        let mut command = cluster.program(&system.namespace, &url, &["migrate"]);
        migrations.push(Program::start(&mut command, system.next_log_path())?);
    }
    // The last migration has started: if none has ended, all run at the same time.
    if migrations.iter_mut().all(Program::is_alive) {
        system.add_evidence("three concurrent migrations".into());
    }
    for mut migration in migrations {
        system.expect("exit code of a migration", &migration.wait_for_exit().await?.code(), &Some(0));
    }
    cluster.drop_database(&new_database).await?;
    let newer_migration =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999999, 'newer', true, '', 0)";
    system.execute(newer_migration).await?;
    let mut process = system.start_all_roles()?;
    system.expect("exit code on a newer schema", &process.wait_for_exit().await?.code(), &Some(1));
    system.execute("delete from _sqlx_migrations where version = 999999").await?;
    let program = system.start_all_roles()?;
    system.send(&order_lines("LAMP", "line", 5)).await?;
    system.finish(vec![program]).await
}

/// A connection that fails for lack of a file descriptor is treated as an outage.
pub(super) async fn file_descriptors_exhausted(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "file_descriptors_exhausted").await?;
    let (database, broker) =
        (Proxy::start(&system.database_url()).await?, Proxy::start(&cluster.rabbit.url()).await?);
    let mut program =
        system.start("worker,relay", &[("DATABASE_URL", database.url()), ("AMQP_URL", broker.url())])?;
    system.send(&order_lines("LAMP", "before", 20)).await?;
    system.wait_until_drained().await?;
    let before = set_descriptor_limit(&program, Some(3))?;
    database.cut();
    broker.cut();
    system.send(&order_lines("LAMP", "meanwhile", 20)).await?;
    let logged = async || anyhow::Ok(program.has_logged_outage_of("database"));
    let result = wait_until("the outage is logged", cluster.timeout(), logged).await;
    set_descriptor_limit(&program, before)?;
    result?;
    system.add_evidence("no file descriptor for a connection".into());
    system.wait_handled(40).await?;
    system.expect("failed attempts", &system.failed_attempts().await?, &0);
    system.expect("alive", &program.is_alive(), &true);
    system.finish(vec![program]).await
}

/// Sets how many files a process may open, and returns the previous limit.
fn set_descriptor_limit(program: &Program, limit: Option<u64>) -> anyhow::Result<Option<u64>> {
    let pid = Pid::from_raw(i32::try_from(program.pid())?).context("0 is not a process id")?;
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum })?;
    Ok(before.current)
}
