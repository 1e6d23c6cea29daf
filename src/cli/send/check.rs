//! The check of commands before they are published.

use crate::{
    domain::Command,
    ports::{admin::OutboundCommand, queue::Message, routing},
    service::{
        decode::{self, Limits},
        decode_error::DecodeError,
    },
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
            body: command.body.as_slice().into(),
            ..Message::default()
        };
        let is_command = Command::NAMES.contains(&command.kind.as_str());
        match routing::queue_of(&command.kind).filter(|_| is_command) {
            Some(queue) => decode::decode(queue, &message, *limits).map(drop),
            None => Err(DecodeError::unknown_command(&command.kind)),
        }
    }
}
