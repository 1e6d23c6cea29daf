//! The log lines about outcomes: a warning only where a person may have to act.

use tracing::{debug, info, warn};

use crate::{
    domain::RetryDecision,
    ports::{error::error_text, queue::QueueName},
    service::{
        failure::Failure,
        outcome::{AttemptRecord, CommandOutcome},
        received::ReceivedMessage,
    },
};

pub(super) fn log_outcome(queue: QueueName, received: &ReceivedMessage, outcome: &CommandOutcome) {
    match outcome {
        // The other two are for senders that wait for an answer.
        CommandOutcome::Handled | CommandOutcome::Reported(_) | CommandOutcome::Unknown => {}
        CommandOutcome::Duplicate => {
            let (queue, message_id) = (queue.as_str(), received.message.message_id.as_deref());
            debug!(queue, message_id, "duplicate or outdated copy skipped");
        }
        CommandOutcome::Recorded(failure, record) => log_failure(queue, received, failure, record),
    }
}

/// Lines with the same group are repetitions of each other.
fn log_failure(queue: QueueName, received: &ReceivedMessage, failure: &Failure, record: &AttemptRecord) {
    let (queue, message) = (queue.as_str(), &received.message);
    let (message_id, kind) = (message.message_id.as_deref(), &*message.kind);
    let (group, error) = (&*record.error_group, error_text(failure));
    let trace_id = received.trace_id();
    let trace_id = trace_id.as_deref();
    match record.decision {
        RetryDecision::Wait => {
            debug!(queue, message_id, "command waits for an earlier one for the same line or batch");
        }
        RetryDecision::Postpone(delay) => {
            debug!(queue, message_id, error, retry_in_ms = delay.as_millis(), "command postponed");
        }
        RetryDecision::Retry(delay) => {
            let retry_in_ms = delay.as_millis();
            info!(
                queue,
                message_id,
                "type" = kind,
                group,
                trace_id,
                error,
                retry_in_ms,
                "command failed, retry scheduled"
            );
        }
        RetryDecision::Dead(reason) => {
            let reason = reason.as_str();
            warn!(
                queue,
                message_id,
                "type" = kind,
                group,
                trace_id,
                error,
                reason,
                "command dead-lettered; run `allocation dead-letters list`"
            );
        }
    }
}
