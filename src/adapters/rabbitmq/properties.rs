//! The properties and headers of a received message.

use std::fmt::Display;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Map, Number, Value, json};

use crate::ports::queue::RawProperties;

use super::stored_properties;

/// The delivery mode of messages that survive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;
/// The header of the W3C trace context.
pub(super) const TRACEPARENT: &str = "traceparent";
/// The header with what the systems of a trace add to its context.
pub(super) const TRACESTATE: &str = "tracestate";
/// Nested values below this depth are not shown: the database limits the depth of JSON.
const MAX_DEPTH: usize = 32;
/// The limit of a short string of AMQP, in bytes. The client library panics above it.
const MAX_SHORT: usize = 255;

/// A text as a short string; a longer text, which is never valid, is truncated.
pub(super) fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(MAX_SHORT)].into()
}

/// The properties of a message as the client library received them.
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
        json!({ "properties": present, "headers": properties.headers().as_ref().map(|headers| table(headers, MAX_DEPTH)) }).to_string()
    }

    fn to_bytes(&self) -> Vec<u8> {
        stored_properties::encode(&self.0)
    }
}

fn table(table: &FieldTable, depth: usize) -> Value {
    let entry = |(name, value): (&ShortString, &AMQPValue)| (name.to_string(), to_json(value, depth));
    table.inner().iter().map(entry).collect::<Map<_, _>>().into()
}

/// The nearest JSON value.
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
        AMQPValue::Float(value) => number(*value),
        AMQPValue::Double(value) => number(*value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::ShortString(value) => json!(value.as_str()),
        AMQPValue::LongString(value) => text_or_bytes(value.as_bytes()),
        AMQPValue::ByteArray(value) => text_or_bytes(value.as_slice()),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth == 0 => json!("…"),
        AMQPValue::FieldArray(values) => {
            values.as_slice().iter().map(|value| to_json(value, depth - 1)).collect()
        }
        AMQPValue::FieldTable(values) => table(values, depth - 1),
        AMQPValue::DecimalValue(value) if value.scale == 0 => json!(value.value),
        AMQPValue::DecimalValue(value) => number(format!("{}e-{}", value.value, value.scale)),
        AMQPValue::Void => Value::Null,
    }
}

/// The number with the same shortest decimal notation; JSON has no infinity, which is shown as text.
fn number(number: impl Display) -> Value {
    let text = number.to_string();
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map_or(Value::String(text), Value::Number)
}

/// Text if it is UTF-8, otherwise its bytes, as in a body.
fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    }
}

/// The approximate size of the headers on the wire, in bytes.
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

/// The value of a text header.
pub(super) fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(ToOwned::to_owned),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Why the broker dead-lettered the message.
pub(super) fn death_reason(properties: &BasicProperties) -> Option<String> {
    lossy_text(newest_death(properties)?.inner().get("reason")?)
}

/// The routing key with which a dead-lettered message was published.
pub(super) fn first_routing_key(properties: &BasicProperties) -> Option<String> {
    match newest_death(properties)?.inner().get("routing-keys")? {
        AMQPValue::FieldArray(keys) => lossy_text(keys.as_slice().first()?),
        _ => None,
    }
}

/// The newest entry of the `x-death` header.
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

#[cfg(test)]
mod tests {
    use lapin::types::DecimalValue;

    use super::*;

    fn headers(names: &[&str]) -> FieldTable {
        let mut table = FieldTable::default();
        for name in names {
            table.insert((*name).into(), AMQPValue::LongString("x".into()));
        }
        table
    }

    #[test]
    fn a_text_that_is_too_long_for_a_short_string_is_truncated_between_characters() {
        assert_eq!(short(&"x".repeat(255)).as_str().len(), 255);
        assert_eq!(short(&"€".repeat(100)).as_str().len(), 255);
        assert_eq!(short(&"é".repeat(200)).as_str().len(), 254);
    }

    #[test]
    fn deeply_nested_headers_are_shown_up_to_a_limit() {
        let deep = (0..1000).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
        let mut table = FieldTable::default();
        table.insert("deep".into(), deep);
        let json = AmqpProperties(BasicProperties::default().with_headers(table)).to_json();
        assert_eq!(json.matches('[').count(), MAX_DEPTH);
    }

    #[test]
    fn headers_of_every_type_are_shown_as_json_and_kept_exactly() {
        let decimal = |value, scale| AMQPValue::DecimalValue(DecimalValue { scale, value });
        let cases = [
            (AMQPValue::Boolean(true), json!(true)),
            (AMQPValue::ShortShortInt(-1), json!(-1)),
            (AMQPValue::ShortShortUInt(255), json!(255)),
            (AMQPValue::ShortInt(-300), json!(-300)),
            (AMQPValue::ShortUInt(65_535), json!(65_535)),
            (AMQPValue::LongInt(i32::MIN), json!(i32::MIN)),
            (AMQPValue::LongUInt(u32::MAX), json!(u32::MAX)),
            (AMQPValue::LongLongInt(i64::MIN), json!(i64::MIN)),
            (AMQPValue::Float(1.1), json!(1.1)),
            (AMQPValue::Double(1.5e300), json!(1.5e300)),
            (AMQPValue::Double(f64::NEG_INFINITY), json!("-inf")),
            (decimal(123, 2), json!(1.23)),
            (decimal(u32::MAX, 0), json!(u32::MAX)),
            (decimal(0, 255), json!(0.0)),
            (AMQPValue::Timestamp(1_700_000_000), json!(1_700_000_000)),
            (AMQPValue::LongString("größe".into()), json!("größe")),
            (AMQPValue::LongString(vec![0xff].into()), json!({ "base64": "/w==" })),
            (AMQPValue::ByteArray(vec![0, 255].into()), json!({ "base64": "AP8=" })),
            (AMQPValue::FieldArray(vec![AMQPValue::Void, decimal(5, 1)].into()), json!([null, 0.5])),
            (AMQPValue::FieldTable(headers(&["inner"])), json!({ "inner": "x" })),
            (AMQPValue::Void, Value::Null),
        ];
        let mut table = FieldTable::default();
        for (number, (value, _)) in cases.iter().enumerate() {
            table.insert(format!("h{number}").into(), value.clone());
        }
        let properties = AmqpProperties(BasicProperties::default().with_headers(table));
        let json: Value = serde_json::from_str(&properties.to_json()).unwrap();
        for (number, (value, shown)) in cases.iter().enumerate() {
            assert_eq!(json["headers"][format!("h{number}")], *shown, "{value:?}");
        }
        let decoded = stored_properties::decode(&properties.to_bytes());
        assert_eq!(decoded, properties.0);
        assert!(size(&properties.0) > 20);
    }
}
