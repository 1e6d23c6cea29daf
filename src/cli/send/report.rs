//! What was sent and confirmed, and what resulted from it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cli::output,
    domain::PublishOutcome,
    ports::{
        admin::{CommandSender, OutboundCommand},
        answered::Answered,
    },
    views::SendProgress,
};

#[derive(Default)]
pub(super) struct SendReport {
    confirmed: usize,
    failed: usize,
    /// The distinct commands that were confirmed, and their orders: `--follow` waits for them.
    message_ids: BTreeSet<String>,
    orderids: BTreeSet<String>,
    pub(super) took: Duration,
}

/// What the worker and the relay made of the commands.
pub(super) struct FollowReport {
    pub(super) progress: SendProgress,
    pub(super) events: i64,
    pub(super) notifications: i64,
    pub(super) unpublished: i64,
    pub(super) took: Duration,
}

impl SendReport {
    /// Publishes the commands. One that is not confirmed is reported and counted as failed.
    ///
    /// # Errors
    /// The sender did not report one outcome for each command.
    pub(super) async fn send(
        &mut self,
        sender: &impl CommandSender,
        commands: Vec<OutboundCommand>,
    ) -> anyhow::Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        let outcomes = sender.send(&commands).await;
        let outcomes =
            Answered::new(commands, outcomes).context("not every command has an outcome; send again")?;
        for (command, outcome) in outcomes {
            match refusal(&command.kind, outcome) {
                None => self.confirm(command),
                Some(reason) => self.fail(&format!("{}: {reason}", command.message_id)),
            }
        }
        Ok(())
    }

    fn confirm(&mut self, command: OutboundCommand) {
        self.confirmed += 1;
        self.orderids.extend(orderid(&command.body));
        self.message_ids.insert(command.message_id);
    }

    pub(super) fn fail(&mut self, text: &str) {
        self.failed += 1;
        output::error(text);
    }

    /// Whether every command was confirmed and, if it was followed, handled.
    pub(super) fn is_complete(&self, followed: Option<&FollowReport>) -> bool {
        let handled = |followed: &FollowReport| followed.progress.handled == self.commands();
        self.failed == 0 && followed.is_none_or(handled)
    }

    /// The distinct message ids and order ids.
    pub(super) fn ids(&self) -> (Vec<String>, Vec<String>) {
        (self.message_ids.iter().cloned().collect(), self.orderids.iter().cloned().collect())
    }

    pub(super) fn commands(&self) -> i64 {
        i64::try_from(self.message_ids.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn to_json(&self, followed: Option<&FollowReport>) -> Value {
        let mut report = json!({ "confirmed": self.confirmed, "failed": self.failed });
        if let Some(FollowReport { progress, events, notifications, unpublished, took }) = followed {
            report["commands"] = json!(self.commands());
            report["handled"] = json!(progress.handled);
            report["lines"] = json!({ "allocated": progress.allocated, "backordered": progress.backordered });
            report["events"] = json!({ "recorded": events, "unpublished": unpublished });
            report["notifications"] = json!(notifications);
            report["failed_attempts"] = json!(progress.failed_attempts);
            report["seconds"] = json!(took.as_secs_f64());
        }
        report
    }

    pub(super) fn print(&self, followed: Option<&FollowReport>) {
        let seconds = self.took.as_secs_f64();
        output::line(&format!("{} sent and confirmed in {seconds:.1} s", count(self.confirmed, "message")));
        if self.failed > 0 {
            output::line(&format!("{} not confirmed", count(self.failed, "message")));
        }
        if let Some(followed) = followed {
            self.print_followed(followed);
        }
    }

    fn print_followed(&self, followed: &FollowReport) {
        let FollowReport { progress, events, notifications, unpublished, took } = followed;
        let SendProgress { handled, allocated, backordered, failed_attempts } = progress;
        let commands = self.commands();
        let mut table = output::table(&["result", ""]);
        table.add_row(["commands handled", &format!("{handled} of {commands}")]);
        table.add_row(["duplicates ignored", &(self.confirmed - self.message_ids.len()).to_string()]);
        table.add_row(["failed attempts", &failed_attempts.to_string()]);
        table.add_row(["lines allocated", &allocated.to_string()]);
        table.add_row(["lines backordered", &backordered.to_string()]);
        table.add_row(["events published", &(events - unpublished).to_string()]);
        table.add_row(["notifications", &notifications.to_string()]);
        let per_second = f64::from(u32::try_from(*handled).unwrap_or(u32::MAX)) / took.as_secs_f64();
        table.add_row(["commands per second", &format!("{per_second:.0}")]);
        output::line(&table.to_string());
        if *handled < commands || *unpublished > 0 {
            output::error("not everything was handled and published; see `allocation status`");
        }
    }
}

/// Why a command is not in a queue; `None` if it is.
fn refusal(kind: &str, outcome: PublishOutcome) -> Option<String> {
    match outcome {
        PublishOutcome::Confirmed => None,
        PublishOutcome::Unroutable => Some(format!("no queue is bound to commands of type {kind:?}")),
        PublishOutcome::Nacked(reason) | PublishOutcome::Rejected(reason) => {
            Some(format!("rejected by the broker: {reason}"))
        }
        PublishOutcome::Unknown(reason) => Some(format!("not confirmed, send it again: {reason}")),
    }
}

fn orderid(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OrderIdField {
        orderid: Option<String>,
    }
    serde_json::from_slice::<OrderIdField>(body).ok()?.orderid
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
