//! Injects one fault at a time during work, with evidence that it interrupted some.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;

use super::{
    fleet::Fleet,
    plan::{Fault, Step},
    wait_until_done,
};
use crate::{
    cluster::{PROCESS_ROLES, Recovery},
    command::create_batch,
    command_load::CommandLoad,
    scenarios::kill_leader,
    test_system::TestSystem,
    wait::wait_until,
};

/// Time limit for the first handled command, and for a relay to become leader.
const PROGRESS_TIMEOUT: Duration = Duration::from_mins(1);
/// Time limit for the redelivery of the messages that a killed worker held.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of a soak.
pub(super) struct SoakRun<'a, 'cluster> {
    pub(super) system: &'a TestSystem<'cluster>,
    pub(super) fleet: Fleet,
    pub(super) load: CommandLoad,
    /// Kills that interrupted work in flight.
    pub(super) kills: usize,
    pub(super) probes: u32,
}

impl SoakRun<'_, '_> {
    /// Sends commands, injects the fault while they are handled, and waits until all are done.
    pub(super) async fn run_step(&mut self, step: Step) -> anyhow::Result<()> {
        self.load.mark_handled();
        let portion = self.load.next_commands(step.commands);
        let system = self.system;
        let before = system.handled().await?;
        self.fleet.slow_links();
        let fault = async {
            wait_until("work begins", PROGRESS_TIMEOUT, async || {
                anyhow::Ok(system.handled().await? > before)
            })
            .await?;
            tokio::time::sleep(step.after).await; // part of the plan
            self.inject(step.fault).await
        };
        let (sent, injected) = tokio::join!(system.send(&portion), fault);
        sent?;
        injected?;
        self.fleet.fast_links();
        wait_until_done(system).await?;
        ensure!(
            self.fleet.alive_count() == PROCESS_ROLES.len(),
            "a process ended unexpectedly: {:?}",
            self.fleet.tails()
        );
        Ok(())
    }

    async fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        let (system, cluster) = (self.system, self.system.cluster);
        match fault {
            Fault::KillWorker(index) => self.kill_workers(&[index]).await,
            Fault::KillWorkers => self.kill_workers(&[0, 1]).await,
            Fault::KillRelay => self.kill_relay().await,
            Fault::CrashBackend => {
                if cluster.postgres.crash_backend(&system.database).await? > 0 {
                    system.add_evidence("PostgreSQL crashed with open transactions".into());
                }
                self.measure_recovery(Recovery::Database).await
            }
            Fault::CrashPostmaster => {
                cluster.postgres.crash().await?;
                self.measure_recovery(Recovery::Database).await
            }
            Fault::KillBroker => {
                cluster.rabbit.kill()?;
                cluster.rabbit.run().await?;
                self.measure_recovery(Recovery::Broker).await
            }
            Fault::RestartBroker => {
                cluster.rabbit.rabbitmqctl(&["stop_app"]).await?;
                cluster.rabbit.rabbitmqctl(&["start_app"]).await?;
                cluster.rabbit.wait_until_available().await?;
                self.measure_recovery(Recovery::Broker).await
            }
            Fault::CutDatabase => {
                self.fleet.cut_database_connections();
                Ok(())
            }
            Fault::CutBroker => {
                self.fleet.broker.cut();
                Ok(())
            }
        }
    }

    /// Measures the recovery with a command that is sent after the server is available again.
    async fn measure_recovery(&mut self, kind: Recovery) -> anyhow::Result<()> {
        self.probes += 1;
        self.fleet.fast_links();
        self.system.measure_recovery(kind, &create_batch(&format!("probe-{}", self.probes), "LAMP", 1)).await
    }

    /// Suspends workers, reads their open transactions, and kills them. The evidence is an open transaction, or a
    /// message that is redelivered to another worker.
    async fn kill_workers(&mut self, indexes: &[usize]) -> anyhow::Result<()> {
        let system = self.system;
        let mut processes = Vec::new();
        for index in indexes {
            let process = self.fleet.take(*index)?;
            process.signal(Signal::STOP)?;
            processes.push(process);
        }
        let busy = count_in_transaction(system, indexes).await?;
        let before = system.redeliveries().await?;
        for process in processes {
            process.kill().await?;
        }
        let begin = Instant::now();
        self.fleet.fast_links();
        for index in indexes {
            self.fleet.restart(system, *index)?;
        }
        let redelivered = async || anyhow::Ok(system.redeliveries().await? > before);
        let redelivered =
            wait_until("messages are redelivered", REDELIVERY_TIMEOUT, redelivered).await.is_ok();
        // It is not known whose messages are redelivered: at least one worker had some.
        let interrupted = busy.max(usize::from(redelivered));
        self.kills += interrupted;
        if interrupted > 0 {
            system.add_evidence("killed with messages in flight".into());
        }
        if redelivered {
            let finished =
                async || anyhow::Ok(system.count("select count(*) from message_starts").await? == 0);
            wait_until("redelivered messages are finished", PROGRESS_TIMEOUT, finished).await?;
            system.cluster.record_recovery(Recovery::Worker, begin.elapsed());
        }
        Ok(())
    }

    async fn kill_relay(&mut self) -> anyhow::Result<()> {
        let system = self.system;
        let mut leader = None;
        wait_until("a relay is leader", PROGRESS_TIMEOUT, async || {
            leader = self.fleet.leader(system).await?;
            anyhow::Ok(leader.is_some())
        })
        .await?;
        if let Some(index) = leader {
            let process = self.fleet.take(index)?;
            self.kills += usize::from(kill_leader(system, process).await?);
            self.fleet.restart(system, index)?;
        }
        Ok(())
    }
}

/// The number of suspended processes with an open transaction.
async fn count_in_transaction(system: &TestSystem<'_>, indexes: &[usize]) -> anyhow::Result<usize> {
    let roles: Vec<_> = indexes.iter().map(|index| PROCESS_ROLES[*index].to_owned()).collect();
    let busy = sqlx::query_scalar(
        "select count(distinct usename) from pg_stat_activity
         where datname = current_database() and usename::text = any($1) and xact_start is not null",
    );
    let busy: i64 = busy.bind(roles).fetch_one(&system.pool).await?;
    Ok(usize::try_from(busy)?)
}
