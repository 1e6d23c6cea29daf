//! The end of a test system: work drains, processes stop, the checker runs, resources are deleted.

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

use crate::{
    check_report::CheckReport,
    checker,
    program::Program,
    test_system::TestSystem,
    wait::{TimedOut, wait_until},
};

/// Time limit for events to reach the subscriber after the broker confirmed them.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a last worker is started for messages that were returned to the queue.
const MAX_FINAL_PASSES: u32 = 3;
/// Failed messages whose status will still change.
const UNSETTLED: &str =
    "select count(*) from failed_messages where status not in ('resolved', 'dead', 'discarded')";

impl TestSystem<'_> {
    /// Waits until all work is done, stops the processes, and checks.
    pub(crate) async fn finish(self, programs: Vec<Program>) -> anyhow::Result<CheckReport> {
        self.drain_and_stop(programs).await?;
        let report = checker::check(&self).await?;
        self.close(report).await
    }

    /// Waits until all work is done and every event has arrived, and stops the processes.
    pub(crate) async fn drain_and_stop(&self, programs: Vec<Program>) -> anyhow::Result<()> {
        let drained = self.note_timeout(self.wait_for_drain(self.cluster.timeout()).await)?.is_some();
        if !drained {
            for program in &programs {
                self.violations.borrow_mut().push(format!(
                    "log of process {}:\n{}",
                    program.pid(),
                    program.tail()
                ));
            }
        }
        self.stop(programs).await;
        if drained {
            self.process_returned_messages().await?;
        }
        self.wait_for_events().await
    }

    /// Ends a checked system. After a failed check its resources remain on the servers.
    pub(crate) async fn close(self, report: CheckReport) -> anyhow::Result<CheckReport> {
        self.checked.set(true);
        if report.is_clean() {
            self.delete_resources().await?;
        }
        Ok(report)
    }

    /// Waits until no work is outstanding. A timeout fails the scenario, which continues.
    pub(crate) async fn wait_until_drained(&self) -> anyhow::Result<()> {
        self.note_timeout(self.wait_for_drain(self.timeout()).await).map(drop)
    }

    async fn wait_for_drain(&self, timeout: Duration) -> anyhow::Result<Duration> {
        let done = async || anyhow::Ok(self.outstanding_work().await?.is_empty());
        match wait_until("all work is done", timeout, done).await {
            Err(error) if error.is::<TimedOut>() => {
                Err(error.context(self.outstanding_work().await?.join(", ")))
            }
            waited => waited,
        }
    }

    /// Waits until each event has arrived once, and then for repeated events: until the subscriber's queue stays
    /// empty for a while.
    async fn wait_for_events(&self) -> anyhow::Result<()> {
        let arrived = async || anyhow::Ok(self.observer.distinct_count() >= self.recorded_events().await?);
        let _checked_later = wait_until("events arrive", EVENTS_TIMEOUT, arrived).await;
        let queue = self.qualified("observer");
        let no_new_event = async || {
            let before = self.observer.events().len();
            let waiting = self.broker_client.ready_messages(&queue).await?;
            anyhow::Ok(waiting == 0 && self.observer.events().len() == before)
        };
        self.note_timeout(wait_until("no more events arrive", EVENTS_TIMEOUT, no_new_event).await).map(drop)
    }

    /// The outstanding work as text.
    async fn outstanding_work(&self) -> anyhow::Result<Vec<String>> {
        let expected_dead = self.expected_dead.borrow().len();
        let dead = self.count("select count(*) from failed_messages where status = 'dead'").await?;
        let done = self.handled().await? + dead;
        let (ready, dead_letters) = tokio::try_join!(self.ready_commands(), self.ready_dead_letters())?;
        let expected = i64::try_from(self.expected_outcomes(expected_dead))?;
        let outstanding = [
            ("commands to be handled", (expected - done).max(0)),
            ("messages in their queues", i64::from(ready)),
            ("dead letters to be archived", i64::from(dead_letters)),
            ("events in the outbox", self.count("select count(*) from outbox").await?),
            ("unfinished starts", self.count("select count(*) from message_starts").await?),
            ("retries", self.count(UNSETTLED).await?),
        ];
        let remaining = outstanding.iter().filter(|(_, count)| *count > 0);
        Ok(remaining.map(|(description, count)| format!("{count} {description}")).collect())
    }

    /// Attempted commands, and other messages that are to be dead-lettered.
    fn expected_outcomes(&self, expected_dead: usize) -> usize {
        let attempted = self.command_source.attempted();
        let dead = self.expected_dead.borrow();
        let with_id = dead.iter().filter_map(|dead_letter| dead_letter.message_id.as_deref());
        let already_counted =
            with_id.filter(|id| attempted.iter().any(|command| command.message_id == *id)).count();
        attempted.len() + expected_dead - already_counted
    }

    async fn recorded_events(&self) -> anyhow::Result<usize> {
        let recorded = self.count("select coalesce(sum(event_sequence), 0)::bigint from products").await?;
        Ok(usize::try_from(recorded)?)
    }

    /// A process that does not end on SIGTERM is a violation, and is killed.
    pub(crate) async fn stop(&self, programs: Vec<Program>) {
        for program in programs {
            match program.terminate().await {
                Ok(status) => self.expect("a stopped process ended successfully", &status.success(), &true),
                Err(error) => self.violations.borrow_mut().push(format!("{error:#}")),
            }
        }
    }

    /// A stopping process returns messages to the queue, duplicates of handled ones included. Another process must
    /// consume them.
    async fn process_returned_messages(&self) -> anyhow::Result<()> {
        for _ in 0..MAX_FINAL_PASSES {
            if self.ready_commands().await? == 0 && self.count("select count(*) from outbox").await? == 0 {
                return Ok(());
            }
            let process = self.start_all_roles()?;
            let _checked_later = self.wait_for_drain(self.cluster.timeout()).await;
            self.stop(vec![process]).await;
        }
        Ok(())
    }

    async fn delete_resources(&self) -> anyhow::Result<()> {
        let channel = self.broker_client.channel().await?;
        let ends = ["", ".dlq", ".unreadable"];
        let queues = ["orders", "stock", "notifications"];
        let queues = queues.iter().flat_map(|queue| ends.map(|end| format!("{queue}{end}")));
        for queue in queues.chain(["observer".to_owned()]) {
            let queue = queue.as_str();
            channel.queue_delete(self.qualified(queue).into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in ["commands", "events", "dead-letters", "retries"] {
            channel
                .exchange_delete(self.qualified(exchange).into(), ExchangeDeleteOptions::default())
                .await?;
        }
        self.pool.close().await;
        self.cluster.drop_database(&self.database).await
    }
}
