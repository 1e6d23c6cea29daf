//! Kills a process at an exact point: at one of its ports, within a transaction, or between a publication and its confirm.

use allocation::faults::CrashPoint;
use sqlx::{Connection as _, PgConnection};

use crate::{
    program::Program,
    proxy::{CutPoint, Proxy},
    test_system::TestSystem,
    wait::wait_until,
    wire::WireEvent,
};

/// The advisory lock that a transaction waits for at a gate. Two numbers: the program's own lock has one.
const GATE: &str = "7001, 1";
const IS_WAITING: &str =
    "select exists (select from pg_locks where locktype = 'advisory' and classid = 7001 and not granted)";
/// A session does not notice the death of its client while it waits, and would commit afterwards.
const TERMINATE_WAITING: &str = "select count(pg_terminate_backend(pid)) from pg_locks
    where locktype = 'advisory' and classid = 7001 and not granted";

/// Where a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillPoint {
    /// At a port, by a fault injected into the process.
    Port(CrashPoint),
    /// While a transaction inserts into this table.
    Insert(&'static str),
    /// While a transaction commits that has inserted into this table.
    Commit(&'static str),
    /// After a publication for this purpose, before its confirm.
    Published(&'static str),
}

impl KillPoint {
    pub(crate) const WORKER_MID_WRITE: Self = Self::Insert("allocations_view");
    pub(crate) const WORKER_BEFORE_COMMIT: Self = Self::Commit("order_lines");
    pub(crate) const FAILURE_BEFORE_COMMIT: Self = Self::Commit("failed_attempts");
    pub(crate) const OPERATOR_BEFORE_COMMIT: Self = Self::Commit("failed_actions");
    pub(crate) const EVENTS_PUBLISHED: Self = Self::Published("events");
    pub(crate) const RETRY_PUBLISHED: Self = Self::Published("retry");
    pub(crate) const COMMANDS_PUBLISHED: Self = Self::Published("commands");

    /// Every point; a full run must have killed a process at each.
    pub(crate) fn all() -> Vec<Self> {
        let outside = [
            Self::WORKER_MID_WRITE,
            Self::WORKER_BEFORE_COMMIT,
            Self::FAILURE_BEFORE_COMMIT,
            Self::OPERATOR_BEFORE_COMMIT,
            Self::EVENTS_PUBLISHED,
            Self::RETRY_PUBLISHED,
            Self::COMMANDS_PUBLISHED,
        ];
        CrashPoint::ALL.iter().copied().map(Self::Port).chain(outside).collect()
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Port(point) => point.name().to_owned(),
            Self::Insert(table) => format!("insert into {table}"),
            Self::Commit(table) => format!("commit of {table}"),
            Self::Published(what) => format!("{what} published"),
        }
    }

    /// Starts a process with additional environment variables and kills it when it reaches this point.
    pub(crate) async fn kill(
        self,
        system: &TestSystem<'_>,
        start: impl FnOnce(&[(&str, &str)]) -> anyhow::Result<Program>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Port(point) => {
                let mut process = start(&[("CRASH_AT", point.name())])?;
                return system.expect_crash(&mut process, point).await;
            }
            Self::Insert(table) => {
                let gate = Gate::close(system, table, "trigger", "for each statement").await?;
                gate.kill(start(&[])?).await?;
            }
            Self::Commit(table) => {
                let timing = "deferrable initially deferred for each row";
                let gate = Gate::close(system, table, "constraint trigger", timing).await?;
                gate.kill(start(&[])?).await?;
            }
            Self::Published(_) => {
                let proxy = Proxy::start(&system.cluster.rabbit.url()).await?;
                proxy.arm_cut(CutPoint::Hold, WireEvent::Confirm, 0);
                let process = start(&[("AMQP_URL", proxy.url())])?;
                let held = async || anyhow::Ok(proxy.cuts_made() > 0);
                wait_until("a confirm is held back", system.cluster.timeout(), held).await?;
                process.kill().await?;
            }
        }
        system.record_crash(self);
        Ok(())
    }
}

/// A trigger that waits for a lock, which this test holds.
struct Gate<'a> {
    system: &'a TestSystem<'a>,
    table: &'static str,
    lock: PgConnection,
}

impl<'a> Gate<'a> {
    async fn close(
        system: &'a TestSystem<'a>,
        table: &'static str,
        kind: &str,
        timing: &str,
    ) -> anyhow::Result<Self> {
        let mut lock = PgConnection::connect(&system.database_url()).await?;
        sqlx::raw_sql(&format!("select pg_advisory_lock({GATE})")).execute(&mut lock).await?;
        let wait = format!("begin perform pg_advisory_xact_lock({GATE}); return null; end");
        system
            .execute(&format!(
                "create function wait_at_gate() returns trigger language plpgsql as $$ {wait} $$;
                 create {kind} gate after insert on {table} {timing} execute function wait_at_gate();"
            ))
            .await?;
        Ok(Self { system, table, lock })
    }

    /// Kills the process when its transaction waits at the gate. The transaction is rolled back.
    async fn kill(mut self, process: Program) -> anyhow::Result<()> {
        let timeout = self.system.cluster.timeout();
        let is_waiting = async || Ok(sqlx::query_scalar(IS_WAITING).fetch_one(&self.system.pool).await?);
        wait_until("a transaction waits at the gate", timeout, is_waiting).await?;
        process.kill().await?;
        wait_until("the transaction has ended", timeout, async || {
            Ok(self.system.count(TERMINATE_WAITING).await? == 0)
        })
        .await?;
        let table = self.table;
        self.system.execute(&format!("drop trigger gate on {table}; drop function wait_at_gate()")).await?;
        sqlx::raw_sql(&format!("select pg_advisory_unlock({GATE})")).execute(&mut self.lock).await?;
        Ok(self.lock.close().await?)
    }
}
