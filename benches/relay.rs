//! The relay alone, on the running servers: throughput, latency and idle load. `cargo bench --bench relay` prints all of it.
//!
//! Everything is measured in one run, so the ratios are valid on any machine; the absolute figures are this machine's.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use lapin::{
    Connection, ConnectionProperties, Consumer,
    options::{
        BasicConsumeOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::process::{Child, Command};

const NAMESPACE: &str = "bench.relay";
const DATABASE: &str = "allocation_bench_relay";
/// Events per throughput measurement.
const WINDOW: i64 = 20_000;
/// Events of the measurement beside an open transaction.
const FLOW: i64 = 100_000;
const MILLION: i64 = 1_000_000;
/// Events of the latency measurement.
const LATENCY_SAMPLES: usize = 200;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    // The database that the URL names may not exist yet.
    let server = PgPoolOptions::new().max_connections(1).connect(&at(&url, "postgres")?).await?;
    drop_database(&server).await?;
    let bench = Bench { url: at(&url, DATABASE)? };
    bench.call("migrate").await?;
    bench.call("topology").await?;
    let pool = PgPoolOptions::new().max_connections(4).connect(&bench.url).await?;
    let (connection, mut events) = subscribe().await?;

    let few = bench.throughput(&pool, WINDOW).await?;
    let many = bench.throughput(&pool, MILLION).await?;
    println!(
        "pending rows: {few:.0} events/s with {WINDOW}, {many:.0} with {MILLION}: ratio {:.2}",
        many / few
    );
    sqlx::raw_sql("truncate outbox").execute(&pool).await?;
    let alone = bench.flow(&pool, false).await?;
    let beside_open = bench.flow(&pool, true).await?;
    println!(
        "{FLOW} events committed while published: {alone:.0}/s, {beside_open:.0}/s beside an open transaction: ratio {:.2}",
        beside_open / alone
    );
    while tokio::time::timeout(Duration::from_secs(1), events.next()).await.is_ok() {}
    let mut latencies = bench.latencies(&pool, &mut events).await?;
    latencies.sort_unstable();
    let at = |percent: usize| latencies[latencies.len() * percent / 100].as_secs_f64() * 1000.0;
    println!("light load, commit to event received: median {:.1} ms, p99 {:.1} ms", at(50), at(99));
    println!(
        "idle: {:.2} transactions/s with one relay, including those of autovacuum",
        bench.idle(&pool).await?
    );

    clean_up(&connection).await?;
    pool.close().await;
    drop_database(&server).await
}

struct Bench {
    url: String,
}

impl Bench {
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_allocation"));
        command.args(arguments).env("DATABASE_URL", &self.url).env("ALLOCATION__NAMESPACE", NAMESPACE);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn call(&self, subcommand: &str) -> anyhow::Result<()> {
        let status = self.program(&[subcommand]).status().await?;
        anyhow::ensure!(status.success(), "allocation {subcommand} ended with {status}");
        Ok(())
    }

    fn relay(&self) -> anyhow::Result<Child> {
        Ok(self.program(&["run", "--only", "relay"]).spawn()?)
    }

    /// Events per second, measured over the first [`WINDOW`] of the pending ones.
    async fn throughput(&self, pool: &PgPool, pending: i64) -> anyhow::Result<f64> {
        sqlx::raw_sql("truncate outbox").execute(pool).await?;
        commit(pool, pending).await?;
        sqlx::raw_sql("vacuum analyze outbox").execute(pool).await?;
        let first = oldest(pool).await?.unwrap_or_default();
        let mut relay = self.relay()?;
        // The first thousand are the warm-up.
        wait(pool, |oldest| oldest.is_none_or(|id| id >= first + 1000)).await?;
        let begin = Instant::now();
        wait(pool, |oldest| oldest.is_none_or(|id| id >= first + WINDOW)).await?;
        let took = begin.elapsed().as_secs_f64();
        relay.kill().await?;
        Ok(f64::from(u32::try_from(WINDOW - 1000)?) / took)
    }

    /// Events per second while they are committed a thousand at a time.
    async fn flow(&self, pool: &PgPool, beside_open_transaction: bool) -> anyhow::Result<f64> {
        sqlx::raw_sql("create table if not exists bystander (x int)").execute(pool).await?;
        sqlx::raw_sql("vacuum outbox").execute(pool).await?;
        let mut relay = self.relay()?;
        commit(pool, 1000).await?;
        wait(pool, |oldest| oldest.is_none()).await?;
        let mut open = pool.begin().await?;
        if beside_open_transaction {
            // With an id and an old snapshot: vacuum may remove no row that was deleted later.
            sqlx::raw_sql("set transaction isolation level repeatable read").execute(&mut *open).await?;
            sqlx::raw_sql("insert into bystander values (1)").execute(&mut *open).await?;
        }
        let begin = Instant::now();
        for _ in 0..FLOW / 1000 {
            commit(pool, 1000).await?;
        }
        wait(pool, |oldest| oldest.is_none()).await?;
        let took = begin.elapsed().as_secs_f64();
        open.rollback().await?;
        relay.kill().await?;
        Ok(f64::from(u32::try_from(FLOW)?) / took)
    }

    /// The times from the commit of one event to its arrival at a subscriber.
    async fn latencies(&self, pool: &PgPool, events: &mut Consumer) -> anyhow::Result<Vec<Duration>> {
        let mut relay = self.relay()?;
        commit(pool, 1).await?;
        events.next().await;
        let mut latencies = Vec::new();
        for _ in 0..LATENCY_SAMPLES {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let begin = Instant::now();
            commit(pool, 1).await?;
            events.next().await;
            latencies.push(begin.elapsed());
        }
        relay.kill().await?;
        Ok(latencies)
    }

    /// Transactions per second of an idle relay; each of its statements is one.
    async fn idle(&self, pool: &PgPool) -> anyhow::Result<f64> {
        const SECONDS: u32 = 20;
        let mut relay = self.relay()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = transactions(pool).await?;
        tokio::time::sleep(Duration::from_secs(u64::from(SECONDS))).await;
        let after = transactions(pool).await?;
        relay.kill().await?;
        Ok(f64::from(u32::try_from(after - before - 1)?) / f64::from(SECONDS))
    }
}

async fn transactions(pool: &PgPool) -> anyhow::Result<i64> {
    let counted =
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(counted).fetch_one(pool).await?)
}

/// Commits events of fifty SKUs as a worker does, with its notification of relays.
async fn commit(pool: &PgPool, events: i64) -> anyhow::Result<()> {
    sqlx::query(
        "with new as (
             insert into outbox (name, sku, sequence, body, causation_id, correlation_id)
             select 'allocated', 'SKU-' || i % 50, i, '{\"orderid\":\"o\",\"sku\":\"s\",\"qty\":1,\"batchref\":\"b\"}', 'c', 'c'
             from generate_series(1, $1) as i
         )
         select pg_notify('allocation_outbox', '')",
    )
    .bind(events)
    .execute(pool)
    .await?;
    Ok(())
}

async fn oldest(pool: &PgPool) -> anyhow::Result<Option<i64>> {
    Ok(sqlx::query_scalar("select id from outbox order by id limit 1").fetch_optional(pool).await?)
}

async fn wait(pool: &PgPool, until: impl Fn(Option<i64>) -> bool) -> anyhow::Result<()> {
    while !until(oldest(pool).await?) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn subscribe() -> anyhow::Result<(Connection, Consumer)> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let queue = format!("{NAMESPACE}.observer");
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), quorum).await?;
    let exchange = format!("{NAMESPACE}.events");
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(queue.as_str().into(), exchange.into(), "#".into(), bind, FieldTable::default())
        .await?;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let events =
        channel.basic_consume(queue.into(), "observer".into(), no_ack, FieldTable::default()).await?;
    Ok((connection, events))
}

async fn clean_up(connection: &Connection) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    for queue in ["orders", "stock", "notifications"] {
        for end in ["", ".dlq", ".unreadable"] {
            let name = format!("{NAMESPACE}.{queue}{end}");
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
        }
    }
    channel.queue_delete(format!("{NAMESPACE}.observer").into(), QueueDeleteOptions::default()).await?;
    for exchange in ["commands", "events", "dead-letters", "retries"] {
        channel
            .exchange_delete(format!("{NAMESPACE}.{exchange}").into(), ExchangeDeleteOptions::default())
            .await?;
    }
    Ok(())
}

/// The URL of another database on the same server.
fn at(url: &str, database: &str) -> anyhow::Result<String> {
    let mut url = url::Url::parse(url)?;
    url.set_path(database);
    Ok(url.into())
}

async fn drop_database(server: &PgPool) -> anyhow::Result<()> {
    let statement = format!("drop database if exists {DATABASE} with (force)");
    sqlx::raw_sql(&statement).execute(server).await?;
    Ok(())
}
