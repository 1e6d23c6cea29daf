//! What stands around a body: read for handling, kept for the ledger, cleaned for a retry.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Map, Value, json};

use crate::ports::{
    failed_messages::DueRetry,
    queue::{RawProperties, RetryMark},
};

/// Survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;
/// The W3C trace.
pub(super) const TRACEPARENT: &str = "traceparent";
/// The retry mark: failed message, generation and secret, with dots between.
const RETRY: &str = "x-allocation-retry";
/// Headers that brokers and tools write on dead-lettered messages, by the beginnings of their names. On a message that is
/// published again they would be counted, or taken for a cycle.
const NOT_PUBLISHED_AGAIN: [&str; 6] =
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-shovelled"];
/// These exact names lead a message to further queues.
const ROUTES: [&str; 2] = ["CC", "BCC"];

/// What is nested deeper nobody reads, and the database would not take it.
const READABLE_DEPTH: usize = 32;
/// AMQP's short strings end at 255 bytes, and the client library panics beyond.
const SHORT: usize = 255;

/// As much of a text as fits in a short string. Only what was never valid is longer.
pub(super) fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(SHORT)].into()
}

/// A message's properties, as the client library has them.
#[derive(Debug)]
pub(super) struct AmqpProperties(pub(super) BasicProperties);

impl RawProperties for AmqpProperties {
    fn to_json(&self) -> String {
        let AmqpProperties(properties) = self;
        let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
        let entries = [
            ("type", json!(text(properties.kind()))),
            ("message_id", json!(text(properties.message_id()))),
            ("correlation_id", json!(text(properties.correlation_id()))),
            ("content_type", json!(text(properties.content_type()))),
            ("content_encoding", json!(text(properties.content_encoding()))),
            ("delivery_mode", json!(properties.delivery_mode())),
            ("priority", json!(properties.priority())),
            ("reply_to", json!(text(properties.reply_to()))),
            ("expiration", json!(text(properties.expiration()))),
            ("timestamp", json!(properties.timestamp())),
            ("user_id", json!(text(properties.user_id()))),
            ("app_id", json!(text(properties.app_id()))),
        ];
        let present = entries.into_iter().filter(|(_, value)| !value.is_null());
        let present: Map<_, _> = present.map(|(name, value)| (name.to_owned(), value)).collect();
        json!({ "properties": present, "headers": properties.headers().as_ref().map(|headers| table(headers, READABLE_DEPTH)) }).to_string()
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }
}

fn table(table: &FieldTable, depth: usize) -> Value {
    let entry = |(name, value): (&ShortString, &AMQPValue)| (name.to_string(), to_json(value, depth));
    table.inner().iter().map(entry).collect::<Map<_, _>>().into()
}

/// The nearest that JSON has.
fn to_json(value: &AMQPValue, depth: usize) -> Value {
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::ShortString(value) => json!(value.as_str()),
        AMQPValue::LongString(value) => json!(String::from_utf8_lossy(value.as_bytes())),
        AMQPValue::ByteArray(value) => json!(String::from_utf8_lossy(value.as_slice())),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth == 0 => json!("…"),
        AMQPValue::FieldArray(values) => {
            values.as_slice().iter().map(|value| to_json(value, depth - 1)).collect()
        }
        AMQPValue::FieldTable(values) => table(values, depth - 1),
        AMQPValue::DecimalValue(value) => json!(format!("{value:?}")),
        AMQPValue::Void => Value::Null,
    }
}

/// About as many bytes as the headers take on the wire.
pub(super) fn size(properties: &BasicProperties) -> usize {
    properties.headers().as_ref().map_or(0, table_size)
}

fn table_size(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| name.as_str().len() + 2 + value_size(value)).sum()
}

fn value_size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(value) => value.len() + 4,
        AMQPValue::ByteArray(value) => value.len() + 4,
        AMQPValue::ShortString(value) => value.as_str().len() + 1,
        AMQPValue::FieldArray(values) => {
            values.as_slice().iter().map(|value| 1 + value_size(value)).sum::<usize>() + 4
        }
        AMQPValue::FieldTable(values) => table_size(values) + 4,
        _ => 8,
    }
}

/// A header that is text.
pub(super) fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(ToOwned::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The mark on a copy that the relay published. A sender may forge it; the ledger knows the secret.
pub(super) fn retry_mark(properties: &BasicProperties) -> Option<RetryMark> {
    let mark = text_header(properties, RETRY)?;
    let mut parts = mark.splitn(3, '.');
    Some(RetryMark {
        failed_message_id: parts.next()?.parse().ok()?,
        generation: parts.next()?.parse().ok()?,
        secret: parts.next()?.parse().ok()?,
    })
}

/// Why the broker put it aside.
pub(super) fn death_reason(properties: &BasicProperties) -> Option<String> {
    lossy_text(newest_death(properties)?.inner().get("reason")?)
}

/// The routing key with which a dead-lettered message was sent.
pub(super) fn first_routing_key(properties: &BasicProperties) -> Option<String> {
    match newest_death(properties)?.inner().get("routing-keys")? {
        AMQPValue::FieldArray(keys) => lossy_text(keys.as_slice().first()?),
        _ => None,
    }
}

/// The newest entry of a message's `x-death`.
fn newest_death(properties: &BasicProperties) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")? else {
        return None;
    };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(newest) => Some(newest),
        _ => None,
    }
}

fn lossy_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The properties of a retry: as they were, without what would send it astray, and with its generation.
pub(super) fn for_retry(retry: &DueRetry) -> BasicProperties {
    let original: BasicProperties = serde_json::from_slice(&retry.original).unwrap_or_default();
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flat_map(FieldTable::inner) {
        let name_begins = |beginning: &&str| name.as_str().starts_with(*beginning);
        if !NOT_PUBLISHED_AGAIN.iter().any(name_begins) && !ROUTES.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let mark = format!("{}.{}.{}", retry.id, retry.generation, retry.secret);
    headers.insert(RETRY.into(), AMQPValue::LongString(mark.into()));
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT)
        .with_type(short(&retry.kind));
    // The sender's own, exactly, so that the copy is known by the same key; the ledger's may be made printable.
    if let Some(kind) = original.kind().as_ref().filter(|_| !retry.edited) {
        properties = properties.with_type(kind.clone());
    }
    let exact_id = original.message_id().clone().filter(|_| !retry.edited);
    if let Some(id) = exact_id.or_else(|| retry.message_id.as_deref().map(short)) {
        properties = properties.with_message_id(id);
    }
    if retry.edited {
        properties = properties.with_content_type("application/json".into());
    } else {
        if let Some(value) = original.content_type() {
            properties = properties.with_content_type(value.clone());
        }
        if let Some(value) = original.content_encoding() {
            properties = properties.with_content_encoding(value.clone());
        }
    }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn headers(names: &[&str]) -> FieldTable {
        let mut table = FieldTable::default();
        for name in names {
            table.insert((*name).into(), AMQPValue::LongString("x".into()));
        }
        table
    }

    #[test]
    fn a_retry_keeps_what_the_sender_said_and_drops_what_would_send_it_astray() {
        let astray = [
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
        for prefix in NOT_PUBLISHED_AGAIN {
            assert!(astray.iter().any(|name| name.starts_with(prefix)), "{prefix} is not tested");
        }
        let innocent = ["CC-Team", "CCY", "BCCode", "tenant"];
        let sent = [&astray[..], &innocent[..]].concat();
        let original = BasicProperties::default()
            .with_headers(headers(&sent))
            .with_correlation_id("c".into())
            .with_delivery_mode(1)
            .with_expiration("1".into())
            .with_user_id("guest".into());
        let retry = DueRetry {
            id: 1,
            generation: 3,
            queue: "orders".into(),
            message_id: Some("m".into()),
            kind: "allocate".into(),
            body: Vec::new(),
            original: AmqpProperties(original).to_bytes(),
            edited: false,
            secret: Uuid::from_u128(7),
        };
        let properties = for_retry(&retry);
        let mut kept: Vec<_> =
            properties.headers().iter().flat_map(FieldTable::inner).map(|(name, _)| name.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["BCCode", "CC-Team", "CCY", "tenant", RETRY]);
        let mark = RetryMark { failed_message_id: 1, generation: 3, secret: Uuid::from_u128(7) };
        assert_eq!(retry_mark(&properties), Some(mark));
        assert_eq!(properties.correlation_id().as_ref().map(ShortString::as_str), Some("c"));
        assert_eq!((properties.expiration(), properties.user_id()), (&None, &None));
        assert_eq!(*properties.delivery_mode(), Some(2), "a retry survives a restart of the broker");
    }

    #[test]
    fn what_is_too_long_for_a_short_string_is_cut_between_characters() {
        assert_eq!(short(&"x".repeat(255)).as_str().len(), 255);
        assert_eq!(short(&"€".repeat(100)).as_str().len(), 255);
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    }

    #[test]
    fn deeply_nested_headers_are_readable_as_far_as_anybody_reads() {
        let deep = (0..1000).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
        let mut table = FieldTable::default();
        table.insert("deep".into(), deep);
        let readable = AmqpProperties(BasicProperties::default().with_headers(table)).to_json();
        assert_eq!(readable.matches('[').count(), READABLE_DEPTH);
    }

    #[test]
    fn headers_of_every_type_are_readable_and_kept_exactly() {
        let mut table = headers(&["text"]);
        for (i, value) in [
            AMQPValue::Boolean(true),
            AMQPValue::Double(1.5),
            AMQPValue::ByteArray(vec![0, 255].into()),
            AMQPValue::FieldArray(vec![AMQPValue::Void].into()),
            AMQPValue::FieldTable(headers(&["inner"])),
        ]
        .into_iter()
        .enumerate()
        {
            table.insert(format!("h{i}").into(), value);
        }
        let kept = AmqpProperties(BasicProperties::default().with_headers(table));
        let readable: Value = serde_json::from_str(&kept.to_json()).unwrap();
        assert_eq!(readable["headers"]["h4"], json!({ "inner": "x" }));
        let again: BasicProperties = serde_json::from_slice(&kept.to_bytes()).unwrap();
        assert_eq!(again, kept.0);
        assert!(size(&kept.0) > 20);
    }
}
