//! Why a message cannot be decoded.

use std::convert::Infallible;

use crate::domain::ReadError;

/// The longest message id, in characters.
pub(super) const MAX_MESSAGE_ID: usize = 200;
/// The longest message id, in bytes: AMQP's limit.
pub(super) const MAX_MESSAGE_ID_BYTES: usize = 255;

/// Why a message cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has no id.
    #[error("the message has no message id")]
    MissingMessageId,
    /// Its id cannot be stored.
    #[error(
        "the message id must be 1 to {MAX_MESSAGE_ID} printable characters, at most {MAX_MESSAGE_ID_BYTES} bytes"
    )]
    InvalidMessageId,
    /// It is larger than allowed.
    #[error("{part} too large: {size} bytes, the limit is {limit} ({setting})")]
    TooLarge {
        /// The part that is too large: the body or the headers.
        part: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
        /// The setting with the limit.
        setting: &'static str,
    },
    /// Its properties say that the body is not plain JSON.
    #[error("{0}")]
    Content(String),
    /// Its type is unknown, or belongs in another queue.
    #[error("{0}")]
    UnknownCommand(String),
    /// Its body does not have the fields of its type.
    #[error("{0}")]
    InvalidBody(String),
}

impl DecodeError {
    /// No command has this type.
    #[must_use]
    pub fn unknown_command(kind: &str) -> Self {
        Self::UnknownCommand(ReadError::<Infallible>::UnknownCommand(kind.to_owned()).to_string())
    }

    /// A handler received a type that it does not handle.
    pub(super) fn unexpected(kind: &str) -> Self {
        Self::UnknownCommand(format!("type {kind:?} has another handler"))
    }
}
