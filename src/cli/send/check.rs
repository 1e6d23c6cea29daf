//! The check of commands before they are published.

use crate::{
    domain::Command,
    ports::{
        admin::OutboundCommand,
        queue::{Message, QueueName},
        routing::queue_of,
    },
    service::decode::{self, DecodeError, Limits},
};

/// How commands are checked.
pub(super) enum Check {
    /// Everything is published.
    Nothing,
    /// As a worker with these limits decodes them.
    AsWorker(Limits),
}

impl Check {
    /// # Errors
    /// The reason for which a worker would dead-letter the command.
    pub(super) fn apply(&self, command: &OutboundCommand) -> Result<(), DecodeError> {
        let Self::AsWorker(limits) = self else { return Ok(()) };
        let message = Message {
            kind: command.kind.clone(),
            message_id: Some(command.message_id.clone()),
            body: command.body.clone(),
            ..Message::default()
        };
        match queue_of(&command.kind) {
            Some(queue) if queue != QueueName::Notifications => {
                decode::decode(queue, &message, *limits).map(drop)
            }
            _ => Err(DecodeError::UnknownCommand(format!(
                "unknown command type {:?}; known are {}",
                command.kind,
                Command::NAMES.join(", ")
            ))),
        }
    }
}
