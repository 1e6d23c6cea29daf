//! How a message is identified.

use std::sync::Arc;

/// The hash of a message's body; it distinguishes a duplicate from another message with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyHash(pub [u8; 16]);

/// The key of a message in the inbox of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageKey {
    /// The sender's id of the message; the inbox has each id once.
    pub message_id: Arc<str>,
    /// Its type.
    pub kind: &'static str,
    /// The hash of its body.
    pub body_hash: BodyHash,
}

/// The key of a failed message of a queue. Unlike a [`MessageKey`] it exists for every message, valid or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailedMessageKey {
    /// Its id, if it has one.
    pub message_id: Option<Arc<str>>,
    /// Its type, without control characters.
    pub kind: String,
    /// The hash of its body.
    pub body_hash: BodyHash,
}

impl From<&MessageKey> for FailedMessageKey {
    fn from(key: &MessageKey) -> Self {
        Self { message_id: Some(key.message_id.clone()), kind: key.kind.to_owned(), body_hash: key.body_hash }
    }
}
