//! The end of a world: everything drains, the processes stop, the checker judges, and nothing is left.

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

use crate::{
    checker,
    program::Program,
    verdict::Verdict,
    wait::{TooLate, until},
    world::World,
};

/// What the broker has confirmed reaches a subscriber soon.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// How often a last worker takes back what others handed back at the end.
const LAST_LOOKS: u32 = 3;
/// Failed messages that will change by themselves.
const UNSETTLED: &str =
    "select count(*) from failed_messages where status not in ('resolved', 'dead', 'discarded')";

impl World<'_> {
    /// Waits until all is done, stops the processes, and judges.
    pub(crate) async fn finish(self, programs: Vec<Program>) -> anyhow::Result<Verdict> {
        self.settle(programs).await?;
        let verdict = checker::judge(&self).await?;
        self.close(verdict).await
    }

    /// Waits until all is done and every event has arrived, and stops the processes.
    pub(crate) async fn settle(&self, programs: Vec<Program>) -> anyhow::Result<()> {
        let drained = self.in_time(self.work_done(self.lab.patience()).await)?.is_some();
        if !drained {
            for program in &programs {
                self.complaints.borrow_mut().push(format!(
                    "process {} says\n{}",
                    program.pid(),
                    program.tail()
                ));
            }
        }
        self.stop(programs).await;
        if drained {
            self.look_again().await?;
        }
        self.events_arrived().await
    }

    /// Ends a world that was judged. What one that is not clean has on the servers stays there until they end.
    pub(crate) async fn close(self, verdict: Verdict) -> anyhow::Result<Verdict> {
        self.judged.set(true);
        if verdict.is_clean() {
            self.remove().await?;
        }
        Ok(verdict)
    }

    /// Waits until nothing is under way. If that never comes, the scenario has failed, and goes on all the same.
    pub(crate) async fn drained(&self) -> anyhow::Result<()> {
        self.in_time(self.work_done(self.patience()).await).map(drop)
    }

    async fn work_done(&self, within: Duration) -> anyhow::Result<Duration> {
        let done = async || anyhow::Ok(self.waiting().await?.is_empty());
        match until("the work is done", within, done).await {
            Err(error) if error.is::<TooLate>() => Err(error.context(self.waiting().await?.join(", "))),
            waited => waited,
        }
    }

    /// Waits until each event has arrived once, and then for its repeats: until the subscriber's queue is empty for a
    /// while in which nothing arrives.
    async fn events_arrived(&self) -> anyhow::Result<()> {
        let arrived = async || anyhow::Ok(self.observer.distinct() >= self.published().await?);
        let _judged_later = until("events arrive", ARRIVES_WITHIN, arrived).await;
        let queue = self.named("observer");
        let quiet = async || {
            let before = self.observer.events().len();
            let waiting = self.link.ready(&queue).await?;
            anyhow::Ok(waiting == 0 && self.observer.events().len() == before)
        };
        self.in_time(until("no event is on its way", ARRIVES_WITHIN, quiet).await).map(drop)
    }

    /// What is still under way.
    async fn waiting(&self) -> anyhow::Result<Vec<String>> {
        let expected_dead = self.expected_dead.borrow().len();
        let dead = self.count("select count(*) from failed_messages where status = 'dead'").await?;
        let done = self.handled().await? + dead;
        let (ready, put_aside) = tokio::try_join!(self.ready(), self.ready_to_be_buried())?;
        let expected = i64::try_from(self.expected(expected_dead))?;
        let under_way = [
            ("commands to be done", (expected - done).max(0)),
            ("messages in their queues", i64::from(ready)),
            ("dead letters on their way to the ledger", i64::from(put_aside)),
            ("events in the outbox", self.count("select count(*) from outbox").await?),
            ("starts without an end", self.count("select count(*) from message_starts").await?),
            ("retries", self.count(UNSETTLED).await?),
        ];
        let left = under_way.iter().filter(|(_, count)| *count > 0);
        Ok(left.map(|(what, count)| format!("{count} {what}")).collect())
    }

    /// Commands that were attempted, and messages besides that are to be dead.
    fn expected(&self, expected_dead: usize) -> usize {
        let attempted = self.upstream.attempted();
        let dead = self.expected_dead.borrow();
        let among = dead.iter().filter_map(|death| death.message_id.as_deref());
        let known = among.filter(|id| attempted.iter().any(|command| command.message_id == *id)).count();
        attempted.len() + expected_dead - known
    }

    async fn published(&self) -> anyhow::Result<usize> {
        let recorded = self.count("select coalesce(sum(event_sequence), 0)::bigint from products").await?;
        Ok(usize::try_from(recorded)?)
    }

    /// Whoever does not end when told to is a complaint, and is killed.
    pub(crate) async fn stop(&self, programs: Vec<Program>) {
        for program in programs {
            match program.terminate().await {
                Ok(ended) => self.expect("a process that was to stop ended well", &ended.success(), &true),
                Err(error) => self.complaints.borrow_mut().push(format!("{error:#}")),
            }
        }
    }

    /// A stop hands back what was not begun, repeats of handled messages among it: somebody must take them once more.
    async fn look_again(&self) -> anyhow::Result<()> {
        for _ in 0..LAST_LOOKS {
            if self.ready().await? == 0 && self.count("select count(*) from outbox").await? == 0 {
                return Ok(());
            }
            let last = self.healthy()?;
            let _judged_later = self.work_done(self.lab.patience()).await;
            self.stop(vec![last]).await;
        }
        Ok(())
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let channel = self.link.channel().await?;
        let queues =
            ["orders", "orders.dlq", "stock", "stock.dlq", "notifications", "notifications.dlq", "observer"];
        for queue in queues {
            channel.queue_delete(self.named(queue).into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in ["commands", "events", "dead-letters"] {
            channel.exchange_delete(self.named(exchange).into(), ExchangeDeleteOptions::default()).await?;
        }
        self.pool.close().await;
        self.lab.drop_database(&self.database).await
    }
}
