//! From a message to its content: the first of three layers of validation, the syntax.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{
    domain::{BodyHash, MessageKey},
    ports::{
        queue::{Message, QueueName},
        routing,
        text::{is_printable, replace_nul},
        trace::{TraceContext, is_tracestate},
    },
};

use super::{
    body::read_body,
    decode_error::{DecodeError, MAX_MESSAGE_ID, MAX_MESSAGE_ID_BYTES},
    envelope::Envelope,
};

/// The largest allowed message; a larger one is not parsed.
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
        check_size("body", body.len(), self.body_bytes, "limits.body_bytes")
    }
}

/// Decodes a message that came from a queue.
///
/// # Errors
/// [`DecodeError`] names the field that is invalid, and never contains the body.
pub fn decode(queue: QueueName, message: &Message, limits: Limits) -> Result<Envelope, DecodeError> {
    check_size("headers", message.header_bytes, limits.header_bytes, "limits.header_bytes")?;
    limits.check_body(&message.body)?;
    check_content_type(message)?;
    let message_id: Arc<str> = checked_id(message.message_id.as_deref().unwrap_or_default())?.into();
    check_route(queue, &message.kind)?;
    let content = read_body(&message.kind, &message.body)?;
    let correlation_id =
        message.correlation_id.as_deref().map_or_else(|| message_id.clone(), |id| replace_nul(id).into());
    let traceparent = message.traceparent.as_deref().filter(|trace| TraceContext::parse(trace).is_some());
    // Without the other header it has no meaning.
    let tracestate =
        message.tracestate.as_deref().filter(|state| traceparent.is_some() && is_tracestate(state));
    Ok(Envelope {
        key: MessageKey { message_id, kind: content.kind(), body_hash: body_hash(&message.body) },
        content,
        correlation_id,
        traceparent: traceparent.map(Into::into),
        tracestate: tracestate.map(Into::into),
    })
}

/// A type is handled only in the queue that it is bound to: who may publish it is decided by its routing key.
fn check_route(queue: QueueName, kind: &str) -> Result<(), DecodeError> {
    let here = queue.as_str();
    match routing::queue_of(kind) {
        Some(bound_to) if bound_to == queue => Ok(()),
        Some(bound_to) => Err(DecodeError::UnknownCommand(format!(
            "type {kind:?} does not belong in the queue {here}, it is bound to {}",
            bound_to.as_str()
        ))),
        None => {
            let taken: Vec<_> = routing::routes_to(queue).map(|route| route.kind).collect();
            let taken = taken.join(", ");
            Err(DecodeError::UnknownCommand(format!(
                "unknown command type {kind:?}; the queue {here} takes {taken}"
            )))
        }
    }
}

fn check_size(
    part: &'static str,
    size: usize,
    limit: usize,
    setting: &'static str,
) -> Result<(), DecodeError> {
    if size > limit { Err(DecodeError::TooLarge { part, size, limit, setting }) } else { Ok(()) }
}

/// Both properties may be absent. A compressed body is not decompressed: a few bytes could become gigabytes.
fn check_content_type(message: &Message) -> Result<(), DecodeError> {
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

/// Checks that a message id can be stored: 1 to 200 printable characters, at most 255 bytes.
///
/// # Errors
/// [`DecodeError::MissingMessageId`] if it is empty, [`DecodeError::InvalidMessageId`] if it is anything else.
pub fn checked_id(id: &str) -> Result<&str, DecodeError> {
    if id.is_empty() {
        return Err(DecodeError::MissingMessageId);
    }
    let printable = id.chars().all(is_printable) && !id.trim().is_empty();
    if printable && id.len() <= MAX_MESSAGE_ID_BYTES && id.chars().count() <= MAX_MESSAGE_ID {
        Ok(id)
    } else {
        Err(DecodeError::InvalidMessageId)
    }
}

/// The hash of a body, part of the message's key.
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
        Message {
            kind: kind.into(),
            message_id: Some("m1".into()),
            body: body.as_bytes().into(),
            ..Message::default()
        }
    }

    fn decode_in_its_queue(message: &Message) -> Result<Envelope, DecodeError> {
        decode(routing::queue_of(&message.kind).unwrap_or(QueueName::Orders), message, LIMITS)
    }

    fn error(kind: &str, body: &str) -> String {
        decode_in_its_queue(&message(kind, body)).unwrap_err().to_string()
    }

    #[test]
    fn a_tracestate_counts_only_with_a_traceparent() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parent, state, expected) in [
            (Some(trace), "a=1", Some("a=1")),
            (None, "a=1", None),
            (Some("invalid"), "a=1", None),
            (Some(trace), "no list", None),
        ] {
            let mut line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
            line.traceparent = parent.map(Into::into);
            line.tracestate = Some(state.into());
            let envelope = decode_in_its_queue(&line).unwrap();
            assert_eq!(envelope.tracestate.as_deref(), expected, "{parent:?} {state}");
        }
    }

    #[test]
    fn the_message_id_serves_as_correlation_id() {
        let line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
        assert_eq!(&*decode_in_its_queue(&line).unwrap().correlation_id, "m1");
        let line = Message { correlation_id: Some("checkout-7".into()), ..line };
        assert_eq!(&*decode_in_its_queue(&line).unwrap().correlation_id, "checkout-7");
    }

    /// The broker checks the routing key of a publisher, not the type of its message.
    #[test]
    fn a_type_is_read_only_in_the_queue_that_it_is_bound_to() {
        let stock = message("create_batch", r#"{"ref": "b", "sku": "s", "qty": 1}"#);
        assert!(decode(QueueName::Stock, &stock, LIMITS).is_ok());
        for queue in [QueueName::Orders, QueueName::Notifications] {
            let error = decode(queue, &stock, LIMITS).unwrap_err();
            assert!(matches!(error, DecodeError::UnknownCommand(_)), "{error:?}");
            assert!(error.to_string().ends_with("it is bound to stock"), "{error}");
        }
    }

    #[test]
    fn the_error_for_an_unknown_type_names_the_types_of_the_queue() {
        let unknown = |queue| decode(queue, &message("alocate", "{}"), LIMITS).unwrap_err().to_string();
        let expected = "unknown command type \"alocate\"; the queue orders takes allocate, deallocate";
        assert_eq!(unknown(QueueName::Orders), expected);
        assert!(unknown(QueueName::Notifications).ends_with("the queue notifications takes out_of_stock"));
    }

    #[test]
    fn a_message_id_is_printable_and_short() {
        let named = |id: Option<&str>| {
            let message = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
            decode_in_its_queue(&Message { message_id: id.map(Into::into), ..message }).map(drop)
        };
        assert_eq!(named(Some(&"x".repeat(200))), Ok(()));
        assert_eq!(named(Some(&"é".repeat(127))), Ok(()));
        assert_eq!(named(None), Err(DecodeError::MissingMessageId));
        assert_eq!(named(Some("")), Err(DecodeError::MissingMessageId));
        // The last one has 128 characters, but 256 bytes.
        for id in [" ", "a\nb", "a\u{202e}b", "\u{200b}", &"x".repeat(201), &"é".repeat(128)] {
            assert_eq!(named(Some(id)), Err(DecodeError::InvalidMessageId));
        }
    }

    #[test]
    fn a_message_above_a_limit_is_not_parsed() {
        let large = "x".repeat(LIMITS.body_bytes + 1);
        assert_eq!(
            error("allocate", &large),
            "body too large: 200001 bytes, the limit is 200000 (limits.body_bytes)"
        );
        let headers = Message { header_bytes: 1001, ..message("allocate", "{}") };
        assert!(matches!(decode_in_its_queue(&headers), Err(DecodeError::TooLarge { part: "headers", .. })));
    }

    #[test]
    fn a_body_that_is_not_plain_json_is_not_parsed() {
        let line = message("deallocate", r#"{"orderid": "o1", "sku": "s"}"#);
        let cases =
            [("application/json", true), ("Application/JSON; charset=utf-8", true), ("text/plain", false)];
        for (content_type, fine) in cases {
            let typed = Message { content_type: Some(content_type.into()), ..line.clone() };
            assert_eq!(decode_in_its_queue(&typed).is_ok(), fine, "{content_type}");
        }
        let packed = Message { content_encoding: Some("gzip".into()), ..line };
        assert!(matches!(decode_in_its_queue(&packed), Err(DecodeError::Content(_))));
    }
}
