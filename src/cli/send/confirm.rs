//! Publishes commands until each of them is confirmed or refused.

use std::{
    mem,
    time::{Duration, Instant},
};

use crate::{
    domain::PublishOutcome,
    ports::{
        admin::{CommandSender, OutboundCommand},
        answered::{Answered, MissingAnswers},
    },
    service::backoff::Backoff,
};

/// The outcome of each command. Those that a lost connection left unconfirmed are sent again, with the same ids and in the
/// same order; the outcome of a command is unknown only if none was confirmed for `give_up_after`, or after a defect of the
/// sender. `on_lost` receives the reason when commands are to be sent again.
pub(super) async fn publish_until_confirmed(
    sender: &impl CommandSender,
    commands: Vec<OutboundCommand>,
    give_up_after: Duration,
    mut on_lost: impl FnMut(&str),
) -> Vec<(OutboundCommand, PublishOutcome)> {
    let mut outcomes = Vec::with_capacity(commands.len());
    let mut pending = commands;
    let mut last_progress = Instant::now();
    let mut delays = Backoff::during_outage();
    // The broker closes the channel of a command that it cannot take; sent alone, that command is refused.
    let mut at_most = pending.len();
    while !pending.is_empty() {
        let later = pending.split_off(at_most.min(pending.len()));
        let sent = sender.send(&pending).await;
        let missing = MissingAnswers { questions: pending.len(), answers: sent.len() };
        if missing.questions != missing.answers {
            // No outcome can be attributed.
            pending.extend(later);
            outcomes.extend(unknown(pending, &format!("a defect, {missing}")));
            break;
        }
        let (settled, mut lost) = (outcomes.len(), None);
        for (command, outcome) in Answered::new(mem::take(&mut pending), sent).into_iter().flatten() {
            if let PublishOutcome::Unknown(reason) = outcome {
                pending.push(command);
                lost = Some(reason);
            } else {
                outcomes.push((command, outcome));
            }
        }
        pending.extend(later);
        let is_progress = outcomes.len() > settled;
        if is_progress {
            (last_progress, delays) = (Instant::now(), Backoff::during_outage());
        }
        at_most = if is_progress { pending.len() } else { 1 };
        let Some(reason) = lost else { continue };
        let Some(left) = give_up_after.checked_sub(last_progress.elapsed()) else {
            outcomes.extend(unknown(pending, &reason));
            break;
        };
        on_lost(&reason);
        tokio::time::sleep(delays.next().unwrap_or(left).min(left)).await;
    }
    outcomes
}

fn unknown(
    commands: Vec<OutboundCommand>,
    reason: &str,
) -> impl Iterator<Item = (OutboundCommand, PublishOutcome)> {
    commands.into_iter().map(move |command| (command, PublishOutcome::Unknown(reason.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;

    /// A broker that closes the channel of the command `poison`, and of every publication until `failures` is 0.
    #[derive(Default)]
    struct Broker {
        failures: Mutex<usize>,
        /// The number of commands of a publication that are confirmed before the connection is lost.
        confirmed_first: usize,
        received: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl CommandSender for Broker {
        async fn send(&self, commands: &[OutboundCommand]) -> Vec<PublishOutcome> {
            let lost = || PublishOutcome::Unknown("connection lost".into());
            let mut failures = self.failures.lock().unwrap();
            let is_lost = *failures > 0;
            *failures = failures.saturating_sub(1);
            let mut closed = false;
            let outcomes = commands.iter().enumerate().map(|(at, command)| {
                if closed || (is_lost && at >= self.confirmed_first) {
                    return lost();
                }
                if command.message_id == "poison" {
                    closed = true;
                    let refused = PublishOutcome::Rejected("too large".into());
                    return if commands.len() == 1 { refused } else { lost() };
                }
                self.received.lock().unwrap().push(command.message_id.clone());
                PublishOutcome::Confirmed
            });
            outcomes.collect()
        }
    }

    fn commands(ids: &[&str]) -> Vec<OutboundCommand> {
        let command = |id: &&str| OutboundCommand {
            kind: "allocate".into(),
            message_id: (*id).into(),
            body: Vec::new(),
        };
        ids.iter().map(command).collect()
    }

    async fn outcomes(broker: &Broker, ids: &[&str], give_up_after: Duration) -> Vec<(String, &'static str)> {
        let outcomes = publish_until_confirmed(broker, commands(ids), give_up_after, |_| {}).await;
        let name = |outcome: &PublishOutcome| match outcome {
            PublishOutcome::Confirmed => "confirmed",
            PublishOutcome::Unknown(_) => "unknown",
            _ => "refused",
        };
        outcomes.iter().map(|(command, outcome)| (command.message_id.clone(), name(outcome))).collect()
    }

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn unconfirmed_commands_are_sent_again_in_their_order() {
        let broker = Broker { failures: Mutex::new(5), confirmed_first: 1, ..Broker::default() };
        let outcomes = outcomes(&broker, &["a", "b", "c", "d"], MINUTE).await;
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == "confirmed"), "{outcomes:?}");
        assert_eq!(*broker.received.lock().unwrap(), ["a", "b", "c", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_closes_the_channel_is_refused_and_the_others_are_sent() {
        let broker = Broker::default();
        let outcomes = outcomes(&broker, &["a", "poison", "b", "c"], MINUTE).await;
        let refused: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome == "refused").collect();
        assert_eq!((outcomes.len(), refused), (4, vec![&("poison".to_owned(), "refused")]));
        assert_eq!(*broker.received.lock().unwrap(), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn the_outcome_is_unknown_if_none_is_confirmed_in_time() {
        let broker = Broker { failures: Mutex::new(usize::MAX), ..Broker::default() };
        let given_up = outcomes(&broker, &["a", "b"], Duration::from_millis(300)).await;
        assert_eq!(given_up, [("a".to_owned(), "unknown"), ("b".to_owned(), "unknown")]);
        let left = usize::MAX - *broker.failures.lock().unwrap();
        assert!(left > 1, "it was tried {left} times");
        let at_once = outcomes(&broker, &["a"], Duration::ZERO).await;
        assert_eq!(at_once, [("a".to_owned(), "unknown")]);
    }
}
