//! From a message to a command: the first of three layers of validation, the syntax.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{
    domain::{Command, UnknownCommand},
    ports::{
        queue::Message,
        store::{Fingerprint, Receipt},
    },
};

/// The longest message id, in characters.
const MAX_MESSAGE_ID: usize = 200;

/// A command with what its message said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What makes a repeat recognisable.
    pub receipt: Receipt,
    /// What is asked for.
    pub command: Command,
    /// What ties together everything that follows; the message id, unless the sender said otherwise.
    pub correlation_id: Arc<str>,
    /// The W3C trace the message belongs to.
    pub traceparent: Option<Arc<str>>,
}

/// Why a message says no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// It has no id, or one that cannot be kept.
    #[error("the message id must be 1 to {MAX_MESSAGE_ID} printable characters")]
    MessageId,
    /// Its type is none of ours.
    #[error("{0}")]
    UnknownCommand(String),
    /// Its body is not what its type requires.
    #[error("{0}")]
    InvalidBody(String),
}

/// Reads a message.
///
/// # Errors
/// [`Undecodable`] names the field that is wrong, and never repeats the body.
pub fn decode(message: &Message) -> Result<Envelope, Undecodable> {
    let message_id: Arc<str> = message_id(message)?.into();
    let command = command(&message.kind, &message.body)?;
    let correlation_id = message
        .correlation_id
        .as_deref()
        .map_or_else(|| message_id.clone(), Into::into);
    Ok(Envelope {
        receipt: Receipt {
            message_id,
            fingerprint: fingerprint(&message.body),
        },
        command,
        correlation_id,
        traceparent: message.traceparent.as_deref().map(Into::into),
    })
}

/// Reads a command's JSON.
///
/// # Errors
/// [`Undecodable::UnknownCommand`] or [`Undecodable::InvalidBody`], which names the field.
pub fn command(name: &str, body: &[u8]) -> Result<Command, Undecodable> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let unknown = |error: UnknownCommand| Undecodable::UnknownCommand(error.to_string());
    match Command::read(name, &mut json).map_err(unknown)? {
        Ok(command) => match json.end() {
            Ok(()) => Ok(command),
            Err(error) => Err(Undecodable::InvalidBody(error.to_string())),
        },
        // The path to the field costs time, so it is only looked for when something is wrong.
        Err(error) => Err(Undecodable::InvalidBody(
            with_field(name, body).unwrap_or_else(|| error.to_string()),
        )),
    }
}

fn with_field(name: &str, body: &[u8]) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let error = Command::read(name, tracked).ok()?.err()?;
    match track.path().to_string().as_str() {
        "." => Some(error.to_string()),
        field => Some(format!("{field}: {error}")),
    }
}

fn message_id(message: &Message) -> Result<&str, Undecodable> {
    let id = message.message_id.as_deref().ok_or(Undecodable::MessageId)?;
    let printable = id.chars().all(|character| !character.is_control()) && !id.trim().is_empty();
    if printable && id.chars().count() <= MAX_MESSAGE_ID {
        Ok(id)
    } else {
        Err(Undecodable::MessageId)
    }
}

fn fingerprint(body: &[u8]) -> Fingerprint {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(body)[..16]);
    Fingerprint(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, body: &str) -> Message {
        Message {
            kind: kind.into(),
            message_id: Some("m1".into()),
            body: body.into(),
            ..Message::default()
        }
    }

    fn error(kind: &str, body: &str) -> String {
        decode(&message(kind, body)).unwrap_err().to_string()
    }

    #[test]
    fn the_message_id_serves_as_correlation_id() {
        let line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
        assert_eq!(&*decode(&line).unwrap().correlation_id, "m1");
        let line = Message {
            correlation_id: Some("checkout-7".into()),
            ..line
        };
        assert_eq!(&*decode(&line).unwrap().correlation_id, "checkout-7");
    }

    #[test]
    fn an_error_names_the_field() {
        let cases = [
            (
                r#"{"orderid": "o1", "sku": "s", "qty": -1}"#,
                "qty: must be a whole number from 1 to 2147483647",
            ),
            (
                r#"{"orderid": "", "sku": "s", "qty": 1}"#,
                "orderid: must be 1 to 255 characters, not blank",
            ),
            (r#"{"orderid": "o1", "qty": 1}"#, "missing field `sku`"),
            (
                r#"{"orderid": null, "sku": "s", "qty": 1}"#,
                "orderid: invalid type: null",
            ),
            (
                r#"{"orderid": "o1", "sku": "s", "qty": 1.5}"#,
                "qty: invalid type: floating point `1.5`",
            ),
            (
                r#"{"orderid": "o1", "sku": "s", "qty": 1, "qty": 2}"#,
                "duplicate field `qty`",
            ),
            (
                r#"{"orderid": "o1", "sku": "s", "qty": 1} x"#,
                "trailing characters",
            ),
            ("", "EOF"),
        ];
        for (body, expected) in cases {
            let error = error("allocate", body);
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn a_message_id_is_printable_and_short() {
        for id in [
            None,
            Some(String::new()),
            Some(" ".into()),
            Some("a\nb".into()),
            Some("x".repeat(201)),
        ] {
            let unnamed = Message {
                message_id: id,
                ..message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#)
            };
            assert_eq!(decode(&unnamed), Err(Undecodable::MessageId));
        }
    }

    #[test]
    fn a_deeply_nested_body_is_an_error_not_a_crash() {
        let deep = format!(r#"{{"x": {}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        assert!(error("allocate", &deep).contains("recursion limit"));
    }
}
