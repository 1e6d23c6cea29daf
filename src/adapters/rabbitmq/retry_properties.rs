//! The properties of a retry: those of the original message, without what the broker added, and with a retry mark.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::ports::{failed_messages::DueRetry, queue::RetryMark};

use super::{
    properties::{PERSISTENT, short, text_header},
    stored_properties,
};

/// The header of the retry mark: id of the failed message, generation and secret, separated by dots.
const RETRY_MARK: &str = "x-allocation-retry";
/// Prefixes of headers that brokers and tools add to dead-lettered messages. On a retry they would be counted, or be
/// taken for a dead-letter cycle.
const DROPPED_PREFIXES: [&str; 6] =
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-shovelled"];
/// Headers that route a message to additional queues.
const DROPPED_NAMES: [&str; 2] = ["CC", "BCC"];

/// The retry mark of a copy that the relay published. A sender can forge it, but does not know the secret.
pub(super) fn retry_mark(properties: &BasicProperties) -> Option<RetryMark> {
    let mark = text_header(properties, RETRY_MARK)?;
    let mut parts = mark.splitn(3, '.');
    Some(RetryMark {
        failed_message_id: parts.next()?.parse().ok()?,
        generation: parts.next()?.parse().ok()?,
        secret: parts.next()?.parse().ok()?,
    })
}

pub(super) fn retry_properties(retry: &DueRetry) -> BasicProperties {
    let original = stored_properties::decode(&retry.original);
    let mut properties = content_properties(retry, &original)
        .with_headers(headers(retry, &original))
        .with_delivery_mode(PERSISTENT);
    if let Some(value) = original.correlation_id() {
        properties = properties.with_correlation_id(value.clone());
    }
    if let Some(value) = original.reply_to() {
        properties = properties.with_reply_to(value.clone());
    }
    if let Some(value) = original.app_id() {
        properties = properties.with_app_id(value.clone());
    }
    if let Some(value) = original.timestamp() {
        properties = properties.with_timestamp(*value);
    }
    properties
}

/// Type, id and content type. Unless an operator edited the message, they are exactly those of the sender, so that the copy
/// has the same key: the stored ones may be sanitized.
fn content_properties(retry: &DueRetry, original: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default().with_type(short(&retry.kind));
    if retry.edited {
        properties = properties.with_content_type("application/json".into());
        return match &retry.message_id {
            Some(id) => properties.with_message_id(short(id)),
            None => properties,
        };
    }
    if let Some(kind) = original.kind() {
        properties = properties.with_type(kind.clone());
    }
    let message_id = original.message_id().clone().or_else(|| retry.message_id.as_deref().map(short));
    if let Some(id) = message_id {
        properties = properties.with_message_id(id);
    }
    if let Some(value) = original.content_type() {
        properties = properties.with_content_type(value.clone());
    }
    if let Some(value) = original.content_encoding() {
        properties = properties.with_content_encoding(value.clone());
    }
    properties
}

/// The sender's headers and the retry mark.
fn headers(retry: &DueRetry, original: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flat_map(FieldTable::inner) {
        let is_dropped = DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
            || DROPPED_NAMES.contains(&name.as_str());
        if !is_dropped {
            headers.insert(name.clone(), value.clone());
        }
    }
    let mark = format!("{}.{}.{}", retry.id, retry.generation, retry.secret);
    headers.insert(RETRY_MARK.into(), AMQPValue::LongString(mark.into()));
    headers
}

#[cfg(test)]
mod tests {
    use lapin::types::ShortString;
    use uuid::Uuid;

    use super::*;

    const SECRET: Uuid = Uuid::from_u128(7);

    fn retry(original: &BasicProperties) -> DueRetry {
        DueRetry {
            id: 1,
            generation: 3,
            queue: "orders".into(),
            message_id: Some("stored-id".into()),
            kind: "stored_type".into(),
            body: Vec::new(),
            original: serde_json::to_vec(original).unwrap(),
            edited: false,
            secret: SECRET,
        }
    }

    fn text(value: Option<&ShortString>) -> Option<&str> {
        value.map(ShortString::as_str)
    }

    #[test]
    fn a_retry_keeps_the_senders_headers_and_drops_those_of_the_broker() {
        let dropped = [
            "x-death",
            "x-first-death-queue",
            "x-first-death-reason",
            "x-last-death-reason",
            "x-delivery-count",
            "x-acquired-count",
            "x-shovelled",
            "CC",
            "BCC",
        ];
        for prefix in DROPPED_PREFIXES {
            assert!(dropped.iter().any(|name| name.starts_with(prefix)), "{prefix} is not tested");
        }
        let mut headers = FieldTable::default();
        for name in dropped.into_iter().chain(["CC-Team", "CCY", "BCCode", "tenant"]) {
            headers.insert(name.into(), AMQPValue::LongString("x".into()));
        }
        let properties = retry_properties(&retry(&BasicProperties::default().with_headers(headers)));
        let mut kept: Vec<_> =
            properties.headers().iter().flat_map(FieldTable::inner).map(|(name, _)| name.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["BCCode", "CC-Team", "CCY", "tenant", RETRY_MARK]);
        let mark = RetryMark { failed_message_id: 1, generation: 3, secret: SECRET };
        assert_eq!(retry_mark(&properties), Some(mark));
    }

    #[test]
    fn a_retry_is_persistent_and_keeps_correlation_but_no_expiration_and_no_user() {
        let original = BasicProperties::default()
            .with_correlation_id("c".into())
            .with_delivery_mode(1)
            .with_expiration("1".into())
            .with_user_id("guest".into());
        let properties = retry_properties(&retry(&original));
        assert_eq!(text(properties.correlation_id().as_ref()), Some("c"));
        assert_eq!((properties.expiration(), properties.user_id()), (&None, &None));
        assert_eq!(*properties.delivery_mode(), Some(2));
    }

    #[test]
    fn only_an_edited_retry_has_the_stored_type_and_id() {
        let original = BasicProperties::default()
            .with_type("sent\u{1}type".into())
            .with_message_id("sent\u{1}id".into())
            .with_content_type("text/plain".into());
        let key = |retry: &DueRetry| {
            let properties = retry_properties(retry);
            let values = [properties.kind(), properties.message_id(), properties.content_type()];
            values.map(|value| text(value.as_ref()).unwrap_or_default().to_owned())
        };
        assert_eq!(key(&retry(&original)), ["sent\u{1}type", "sent\u{1}id", "text/plain"]);
        let edited = DueRetry { edited: true, ..retry(&original) };
        assert_eq!(key(&edited), ["stored_type", "stored-id", "application/json"]);
        let bare = key(&retry(&BasicProperties::default()));
        assert_eq!(bare, ["stored_type", "stored-id", ""], "without properties, the stored ones");
    }
}
