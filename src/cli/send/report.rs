//! What was sent and confirmed, and what resulted from it.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cli::{
        exit::ExitStatus,
        output::{self, Field, Rows},
    },
    domain::PublishOutcome,
    ports::admin::{CommandSender, OutboundCommand},
    views::SendProgress,
};

use super::confirm::publish_until_confirmed;

pub(super) struct SendReport {
    /// How long commands are sent again after none was confirmed.
    give_up_after: Duration,
    /// Whether a note says that commands are sent again.
    is_noted: bool,
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
    pub(super) fn new(give_up_after: Duration) -> Self {
        Self {
            give_up_after,
            is_noted: false,
            confirmed: 0,
            failed: 0,
            message_ids: BTreeSet::new(),
            orderids: BTreeSet::new(),
            took: Duration::ZERO,
        }
    }

    /// Publishes the commands until they are confirmed. One that is not is reported and counted as failed.
    pub(super) async fn send(&mut self, sender: &impl CommandSender, commands: Vec<OutboundCommand>) {
        let (give_up_after, is_noted) = (self.give_up_after, &mut self.is_noted);
        let outcomes = publish_until_confirmed(sender, commands, give_up_after, |reason| {
            if !std::mem::replace(is_noted, true) {
                let limit = humantime::format_duration(give_up_after);
                output::note(&format!("not confirmed ({reason}); sending again for up to {limit}"));
            }
        });
        for (command, outcome) in outcomes.await {
            match refusal(&command.kind, outcome) {
                None => self.confirm(command),
                Some(reason) => self.fail(&format!("{}: {reason}", command.message_id)),
            }
        }
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

    /// Success if every command was confirmed and, if it was followed, handled.
    pub(super) fn exit_status(&self, followed: Option<&FollowReport>) -> ExitStatus {
        let handled = |followed: &FollowReport| followed.progress.handled == self.commands();
        let complete = self.failed == 0 && followed.is_none_or(handled);
        if complete { ExitStatus::Success } else { ExitStatus::Incomplete }
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
        let per_second = f64::from(u32::try_from(*handled).unwrap_or(u32::MAX)) / took.as_secs_f64();
        let mut rows = Rows::new(&["result", ""]);
        for (result, value) in [
            ("commands handled", format!("{handled} of {commands}")),
            ("duplicates ignored", (self.confirmed - self.message_ids.len()).to_string()),
            ("failed attempts", failed_attempts.to_string()),
            ("lines allocated", allocated.to_string()),
            ("lines backordered", backordered.to_string()),
            ("events published", (events - unpublished).to_string()),
            ("notifications", notifications.to_string()),
            ("commands per second", format!("{per_second:.0}")),
        ] {
            rows.push([Field::new(result), Field::new(value)]);
        }
        rows.print();
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Loses the first outcome of every publication, as a defect would.
    struct LosesOutcomes;

    #[async_trait]
    impl CommandSender for LosesOutcomes {
        async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome> {
            vec![PublishOutcome::Confirmed; commands.len() - 1]
        }
    }

    fn command(message_id: &str) -> OutboundCommand {
        OutboundCommand { kind: "allocate".into(), message_id: message_id.into(), body: b"{}".into() }
    }

    #[tokio::test]
    async fn without_an_outcome_for_each_command_none_is_confirmed_and_send_fails() {
        for commands in [vec![command("m1")], vec![command("m1"), command("m2"), command("m3")]] {
            let (mut report, count) = (SendReport::new(Duration::from_mins(1)), commands.len());
            report.send(&LosesOutcomes, commands).await;
            assert_eq!(report.to_json(None), json!({ "confirmed": 0, "failed": count }));
            assert_eq!(report.exit_status(None), ExitStatus::Incomplete);
        }
    }
}
