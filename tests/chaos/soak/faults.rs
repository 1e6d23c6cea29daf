//! One fault at a time, in the middle of work, and the proof that it met some.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;

use super::{
    all_done,
    fleet::Fleet,
    plan::{Fault, Step},
};
use crate::{
    command::create_batch,
    lab::{NAMED, Recovery},
    load::Load,
    scenarios::kill_leader,
    wait::until,
    world::World,
};

/// Somebody begins with what was sent, or leads, within this time.
const BEGINS_WITHIN: Duration = Duration::from_mins(1);
/// What a killed worker held is handed to another within this time, if it held anything.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(3);

/// A world under fire.
pub(super) struct Chaos<'a, 'lab> {
    pub(super) world: &'a World<'lab>,
    pub(super) fleet: Fleet,
    pub(super) load: Load,
    /// Kills that met work in flight.
    pub(super) kills: usize,
    pub(super) probes: u32,
}

impl Chaos<'_, '_> {
    /// Sends a portion, lets the fault come in the middle of it, and waits until all is done.
    pub(super) async fn play(&mut self, step: Step) -> anyhow::Result<()> {
        self.load.handled();
        let portion = self.load.portion(step.commands);
        let world = self.world;
        let before = world.handled().await?;
        self.fleet.slow_links();
        let fault = async {
            until("work begins", BEGINS_WITHIN, async || anyhow::Ok(world.handled().await? > before)).await?;
            tokio::time::sleep(step.after).await; // part of the plan
            self.strike(step.fault).await
        };
        let (sent, struck) = tokio::join!(world.send(&portion), fault);
        sent?;
        struck?;
        self.fleet.fast_links();
        all_done(world).await?;
        ensure!(self.fleet.survivors() == NAMED.len(), "somebody died by itself: {:?}", self.fleet.tails());
        Ok(())
    }

    async fn strike(&mut self, fault: Fault) -> anyhow::Result<()> {
        let (world, lab) = (self.world, self.world.lab);
        match fault {
            Fault::KillWorker(place) => self.kill_workers(&[place]).await,
            Fault::KillWorkers => self.kill_workers(&[0, 1]).await,
            Fault::KillRelay => self.kill_relay().await,
            Fault::CrashBackend => {
                if lab.postgres.crash_a_backend(&world.database).await? > 0 {
                    world.hit("PostgreSQL crashed with open transactions".into());
                }
                self.measure(Recovery::Database).await
            }
            Fault::CrashPostmaster => {
                lab.postgres.crash().await?;
                self.measure(Recovery::Database).await
            }
            Fault::KillBroker => {
                lab.rabbit.kill()?;
                lab.rabbit.run().await?;
                self.measure(Recovery::Broker).await
            }
            Fault::RestartBroker => {
                lab.rabbit.control(&["stop_app"]).await?;
                lab.rabbit.control(&["start_app"]).await?;
                lab.rabbit.accepts().await?;
                self.measure(Recovery::Broker).await
            }
            Fault::CutDatabase => {
                self.fleet.cut_database();
                Ok(())
            }
            Fault::CutBroker => {
                self.fleet.broker.cut();
                Ok(())
            }
        }
    }

    /// A command that is sent after the server is back, and how long it takes.
    async fn measure(&mut self, kind: Recovery) -> anyhow::Result<()> {
        self.probes += 1;
        self.fleet.fast_links();
        self.world.measure(kind, &create_batch(&format!("probe-{}", self.probes), "LAMP", 1)).await
    }

    /// Stops workers, looks what they have in hand, and kills them. The proof is a transaction that was open, or a
    /// message that is handed to somebody else afterwards.
    async fn kill_workers(&mut self, places: &[usize]) -> anyhow::Result<()> {
        let world = self.world;
        let mut victims = Vec::new();
        for place in places {
            let victim = self.fleet.take(*place)?;
            victim.signal(Signal::STOP)?;
            victims.push(victim);
        }
        let busy = busy(world, places).await?;
        let redelivered = world.redeliveries().await?;
        for victim in victims {
            victim.kill().await?;
        }
        let begin = Instant::now();
        self.fleet.fast_links();
        for place in places {
            self.fleet.restart(world, *place)?;
        }
        let again = async || anyhow::Ok(world.redeliveries().await? > redelivered);
        let handed_over = until("its messages come again", HANDED_OVER_WITHIN, again).await.is_ok();
        // Whose messages come again is not known: at least one of them had some.
        let met_work = busy.max(usize::from(handed_over));
        self.kills += met_work;
        if met_work > 0 {
            world.hit("killed with messages in hand".into());
        }
        if handed_over {
            let nobody = async || anyhow::Ok(world.count("select count(*) from message_starts").await? == 0);
            until("they are done elsewhere", BEGINS_WITHIN, nobody).await?;
            world.lab.recovered(Recovery::Worker, begin.elapsed());
        }
        Ok(())
    }

    async fn kill_relay(&mut self) -> anyhow::Result<()> {
        let world = self.world;
        let mut leads = None;
        until("a relay leads", BEGINS_WITHIN, async || {
            leads = self.fleet.leader(world).await?;
            anyhow::Ok(leads.is_some())
        })
        .await?;
        if let Some(place) = leads {
            let victim = self.fleet.take(place)?;
            self.kills += usize::from(kill_leader(world, victim).await?);
            self.fleet.restart(world, place)?;
        }
        Ok(())
    }
}

/// How many of the processes, which are stopped, are in a transaction: they cannot end it.
async fn busy(world: &World<'_>, places: &[usize]) -> anyhow::Result<usize> {
    let roles: Vec<_> = places.iter().map(|place| NAMED[*place].to_owned()).collect();
    let busy = sqlx::query_scalar(
        "select count(distinct usename) from pg_stat_activity
         where datname = current_database() and usename::text = any($1) and xact_start is not null",
    );
    let busy: i64 = busy.bind(roles).fetch_one(&world.pool).await?;
    Ok(usize::try_from(busy)?)
}
