//! From a message to a command: the first of three layers of validation, the syntax.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{
    domain::{BodyHash, Command, MessageKey, UnknownCommand},
    ports::queue::Message,
};

/// How deep a body's arrays and objects may be nested.
const MAX_DEPTH: usize = 128;
/// The longest message id, in characters.
const MAX_MESSAGE_ID: usize = 200;

/// A command with what its message said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What makes a repeat recognisable.
    pub key: MessageKey,
    /// What is asked for.
    pub command: Command,
    /// What ties together everything that follows; the message id, unless the sender said otherwise.
    pub correlation_id: Arc<str>,
    /// The W3C trace the message belongs to.
    pub traceparent: Option<Arc<str>>,
}

/// How large a message may be; what is larger is not even parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the body.
    pub body_bytes: usize,
    /// Bytes of the headers.
    pub header_bytes: usize,
}

impl Limits {
    /// Whether a body is small enough.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] if it is not.
    pub fn check_body(self, body: &[u8]) -> Result<(), DecodeError> {
        within("body", body.len(), self.body_bytes)
    }
}

/// Why a message says no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has no id.
    #[error("the message has no message id")]
    MissingMessageId,
    /// Its id cannot be kept.
    #[error("the message id must be 1 to {MAX_MESSAGE_ID} printable characters")]
    InvalidMessageId,
    /// It is larger than is allowed.
    #[error("{what}: {size} bytes, and {limit} are allowed (limits.{what})")]
    TooLarge {
        /// "body" or "headers".
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It says of itself that it is no plain JSON.
    #[error("{0}")]
    Content(String),
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
/// [`DecodeError`] names the field that is wrong, and never repeats the body.
pub fn decode(message: &Message, limits: Limits) -> Result<Envelope, DecodeError> {
    within("headers", message.header_bytes, limits.header_bytes)?;
    limits.check_body(&message.body)?;
    plain_json(message)?;
    let message_id: Arc<str> = message_id(message)?.into();
    let command = command(&message.kind, &message.body)?;
    let correlation_id =
        message.correlation_id.as_deref().map_or_else(|| message_id.clone(), |id| replace_nul(id).into());
    Ok(Envelope {
        key: MessageKey { message_id, kind: command.name(), body_hash: body_hash(&message.body) },
        command,
        correlation_id,
        traceparent: message.traceparent.as_deref().map(|trace| replace_nul(trace).into()),
    })
}

/// Reads a command's JSON.
///
/// # Errors
/// [`DecodeError::UnknownCommand`] or [`DecodeError::InvalidBody`], which names the field.
pub fn command(name: &str, body: &[u8]) -> Result<Command, DecodeError> {
    if depth(body) > MAX_DEPTH {
        return Err(DecodeError::InvalidBody(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    // Fields without their names would be read by position.
    if !matches!(body.trim_ascii_start().first(), Some(b'{')) && Command::NAMES.contains(&name) {
        return Err(DecodeError::InvalidBody("the body must be a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let unknown = |error: UnknownCommand| DecodeError::UnknownCommand(error.to_string());
    match Command::read(name, &mut json).map_err(unknown)? {
        Ok(command) => match json.end() {
            Ok(()) => Ok(command),
            Err(error) => Err(DecodeError::InvalidBody(error.to_string())),
        },
        // The path to the field costs time, so it is only looked for when something is wrong.
        Err(error) => {
            Err(DecodeError::InvalidBody(with_field(name, body).unwrap_or_else(|| error.to_string())))
        }
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

/// A store of text cannot keep U+0000.
pub(super) fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The deepest nesting of what looks like JSON, found without parsing it.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), DecodeError> {
    if size > limit { Err(DecodeError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// Absent is fine. Nothing is unpacked: a few bytes might become gigabytes.
fn plain_json(message: &Message) -> Result<(), DecodeError> {
    let must_be = |what: &str, is: &str| Err(DecodeError::Content(format!("{what} must be {is}")));
    let content_type = message.content_type.as_deref().unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.is_empty() && !media_type.eq_ignore_ascii_case("application/json") {
        return must_be("content_type", "application/json");
    }
    let encoding = message.content_encoding.as_deref().unwrap_or_default();
    if ["", "identity", "utf-8", "utf8"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain)) {
        return Ok(());
    }
    must_be("content_encoding", "absent: bodies are plain UTF-8")
}

fn message_id(message: &Message) -> Result<&str, DecodeError> {
    checked_id(message.message_id.as_deref().unwrap_or_default())
}

/// Takes a message id that can be kept: 1 to 200 printable characters, and no more than AMQP's 255 bytes.
///
/// # Errors
/// [`DecodeError::MissingMessageId`] if it is empty, [`DecodeError::InvalidMessageId`] if it is anything else.
pub fn checked_id(id: &str) -> Result<&str, DecodeError> {
    if id.is_empty() {
        return Err(DecodeError::MissingMessageId);
    }
    let printable = id.chars().all(|character| !character.is_control()) && !id.trim().is_empty();
    if printable && id.len() <= 255 && id.chars().count() <= MAX_MESSAGE_ID {
        Ok(id)
    } else {
        Err(DecodeError::InvalidMessageId)
    }
}

/// The hash by which a body is known.
#[must_use]
pub fn body_hash(body: &[u8]) -> BodyHash {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(body)[..16]);
    BodyHash(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { body_bytes: 200_000, header_bytes: 1000 };

    fn message(kind: &str, body: &str) -> Message {
        Message { kind: kind.into(), message_id: Some("m1".into()), body: body.into(), ..Message::default() }
    }

    fn error(kind: &str, body: &str) -> String {
        decode(&message(kind, body), LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn the_message_id_serves_as_correlation_id() {
        let line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
        assert_eq!(&*decode(&line, LIMITS).unwrap().correlation_id, "m1");
        let line = Message { correlation_id: Some("checkout-7".into()), ..line };
        assert_eq!(&*decode(&line, LIMITS).unwrap().correlation_id, "checkout-7");
    }

    #[test]
    fn an_error_names_the_field() {
        let cases = [
            (
                r#"{"orderid": "o1", "sku": "s", "qty": -1}"#,
                "qty: must be a whole number from 1 to 2147483647",
            ),
            (r#"{"orderid": "", "sku": "s", "qty": 1}"#, "orderid: must be 1 to 255 characters, not blank"),
            (r#"{"orderid": "o1", "qty": 1}"#, "missing field `sku`"),
            (r#"{"orderid": null, "sku": "s", "qty": 1}"#, "orderid: invalid type: null"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1.5}"#, "qty: invalid type: floating point `1.5`"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1, "qty": 2}"#, "duplicate field `qty`"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1} x"#, "trailing characters"),
            ("", "must be a JSON object"),
            (r#"["o1", "s", 1]"#, "must be a JSON object"),
            (r#"{"orderid": "o1""#, "EOF"),
        ];
        for (body, expected) in cases {
            let error = error("allocate", body);
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn a_message_id_is_printable_and_short() {
        let named = |id: Option<&str>| {
            let message = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
            decode(&Message { message_id: id.map(Into::into), ..message }, LIMITS).map(drop)
        };
        assert_eq!(named(Some(&"x".repeat(200))), Ok(()));
        assert_eq!(named(Some(&"é".repeat(127))), Ok(()));
        assert_eq!(named(None), Err(DecodeError::MissingMessageId));
        assert_eq!(named(Some("")), Err(DecodeError::MissingMessageId));
        // The last one has few enough characters, but 256 bytes; AMQP takes 255.
        for id in [" ", "a\nb", &"x".repeat(201), &"é".repeat(128)] {
            assert_eq!(named(Some(id)), Err(DecodeError::InvalidMessageId));
        }
    }

    #[test]
    fn what_is_too_large_is_not_parsed() {
        let large = "x".repeat(LIMITS.body_bytes + 1);
        assert_eq!(
            error("allocate", &large),
            "body: 200001 bytes, and 200000 are allowed (limits.body_bytes)"
        );
        let headers = Message { header_bytes: 1001, ..message("allocate", "{}") };
        assert!(matches!(decode(&headers, LIMITS), Err(DecodeError::TooLarge { what: "headers", .. })));
    }

    #[test]
    fn a_body_that_calls_itself_something_else_is_not_parsed() {
        let line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
        let cases =
            [("application/json", true), ("Application/JSON; charset=utf-8", true), ("text/plain", false)];
        for (content_type, fine) in cases {
            let typed = Message { content_type: Some(content_type.into()), ..line.clone() };
            assert_eq!(decode(&typed, LIMITS).is_ok(), fine, "{content_type}");
        }
        let packed = Message { content_encoding: Some("gzip".into()), ..line };
        assert!(matches!(decode(&packed, LIMITS), Err(DecodeError::Content(_))));
    }

    #[test]
    fn a_deeply_nested_body_is_an_error_not_a_crash() {
        let nested = |levels: usize| {
            let inside = levels - 1;
            format!(r#"{{"orderid": "[\"", "sku": "s", "x": {}{}}}"#, "[".repeat(inside), "]".repeat(inside))
        };
        assert!(decode(&message("deallocate", &nested(128)), LIMITS).is_ok());
        for levels in [129, 50_000] {
            assert_eq!(error("deallocate", &nested(levels)), "nested deeper than 128 levels");
        }
    }
}
