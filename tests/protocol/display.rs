//! The steps of a trace in words.

use std::fmt::{Display, Formatter, Result};

use crate::{
    config::Config,
    failed_messages::Operation,
    model::Action,
    relay::RelayStep,
    state::{Body, Message, State},
    worker::Isolation,
};

/// An action with the state in which it happens: what a worker handles depends on the state.
pub(crate) fn describe(config: &Config, state: &State, action: Action) -> String {
    let (worker, rejected, end) = match action {
        Action::HandleAndCommit { worker, rejected } => (worker, rejected, "commits"),
        Action::CommitReplyLost { worker, rejected } => (worker, rejected, "commits, and the reply is lost"),
        other => return other.to_string(),
    };
    let (group, isolation) = state.group(config, worker);
    let outcome = |(index, message): (u8, &Message)| match isolation {
        Isolation::GiveUp => format!("gives up {message} (crash_loop)"),
        _ if rejected.has(index) => format!("rejects {message}"),
        _ => format!("handles {message}"),
    };
    let outcomes: Vec<_> = (0..).zip(group).map(outcome).collect();
    format!("worker {worker} {} and {end}", outcomes.join(", "))
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.marker {
            None => write!(f, "message {}", self.id)?,
            Some(marker) => write!(f, "the copy of generation {} of message {}", marker.generation, self.id)?,
        }
        let edited = if self.body == Body::Edited { ", edited" } else { "" };
        let redelivered = if self.redelivered { ", redelivered" } else { "" };
        write!(f, "{edited}{redelivered}")
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match *self {
            Self::Send { id } => write!(f, "the sender sends message {id}"),
            Self::SendAgain { id } => write!(f, "the sender sends message {id} again"),
            Self::Subscribe { worker } => write!(f, "worker {worker} becomes the active consumer"),
            Self::Deliver { worker } => write!(f, "the broker delivers the next message to worker {worker}"),
            Self::RecordStarts { worker } => write!(f, "worker {worker} records the starts of its group"),
            Self::HandleAndCommit { worker, .. } => {
                write!(f, "worker {worker} handles its group and commits")
            }
            Self::CommitReplyLost { worker, .. } => {
                write!(f, "worker {worker} commits, and the reply is lost")
            }
            Self::Acknowledge { worker } => write!(f, "worker {worker} acknowledges what it finished"),
            Self::DatabaseUnavailable { worker } => {
                write!(f, "worker {worker} finds the database unavailable and waits")
            }
            Self::TryAgain { worker } => write!(f, "worker {worker} tries again"),
            Self::ReturnMessages { worker } => write!(f, "worker {worker} begins to return its messages"),
            Self::Stop { worker } => write!(f, "worker {worker} receives a stop signal"),
            Self::RevertStarts { worker } => write!(f, "worker {worker} reverts its starts"),
            Self::Close { worker } => write!(f, "worker {worker} closes its connection"),
            Self::ConnectionLost { worker } => {
                write!(f, "worker {worker} loses its connection to the broker")
            }
            Self::Crash { worker } => write!(f, "worker {worker} crashes"),
            Self::CrashedByMessage { worker } => {
                write!(f, "worker {worker} crashes on a message of its group")
            }
            Self::Relay { relay, step } => write!(f, "relay {relay} {step}"),
            Self::TakeOver => write!(f, "the standby ends the session of the leader and becomes leader"),
            Self::RelayCrash { relay } => write!(f, "relay {relay} crashes"),
            Self::Operator { operation, row } => write!(f, "an operator {operation} row {row}"),
            Self::RemoveInboxRow { id } => write!(f, "retention removes the inbox row of message {id}"),
            Self::RemoveFailedMessage { row } => write!(f, "retention removes row {row}"),
        }
    }
}

impl Display for RelayStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::ReadEvents => write!(f, "reads the oldest events"),
            Self::PublishEvent => write!(f, "publishes the first event that it has read"),
            Self::RemoveEvents => write!(f, "removes the events that it published"),
            Self::ReadRetry(_) => write!(f, "reads a due retry"),
            Self::PublishRetry => write!(f, "publishes a copy of the retry"),
            Self::MarkRetry => write!(f, "marks the retry as published"),
        }
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Retry => "retries",
            Self::Discard => "discards",
            Self::Restore => "restores",
            Self::ShowForEdit => "opens the editor on",
            Self::SaveEdit => "saves the edit of",
        })
    }
}
