//! Invalid ids, types, content types and headers, messages that are too large, and messages that a rule rejects.

use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldTable},
};
use serde_json::json;

use crate::harness::{Command, allocate, properties};

use super::message::{
    BODY_LIMIT, CONFLICT, INVALID, MISSING_ID, Malformed, REJECTED, TOO_LARGE, UNKNOWN, headers, line,
    malformed, padded, text, valid_line,
};

/// More than the default of `limits.header_bytes`.
const MANY_HEADER_BYTES: usize = 70_000;

pub(super) fn invalid_envelopes() -> Vec<Malformed> {
    [invalid_properties(), too_large(), unusual_headers(), rejected()].into_iter().flatten().collect()
}

fn invalid_properties() -> Vec<Malformed> {
    let without_id = BasicProperties::default().with_type("allocate".into());
    let anonymous = line(r#""o-anonymous""#, r#""LAMP""#, "1");
    let mut all = vec![
        malformed("no id", "allocate", anonymous, MISSING_ID).with(without_id),
        malformed("an empty id", "allocate", valid_line(), MISSING_ID).with(properties("allocate", "")),
        malformed("an empty type", "allocate", valid_line(), UNKNOWN)
            .straight_to_orders()
            .with(properties("", "no type")),
        malformed("no type at all", "allocate", valid_line(), UNKNOWN)
            .straight_to_orders()
            .with(BasicProperties::default().with_message_id("typeless".into())),
    ];
    let (long_id, long_type) = ("i".repeat(201), "t".repeat(255));
    let ids = ["  ", "a bell \u{7}", "a line\nbreak", "a tab\t", "a delete \u{7f}", "a nul \0", &long_id];
    for id in ids {
        all.push(malformed(id, "allocate", valid_line(), INVALID).with(properties("allocate", id)));
    }
    let kinds = ["alocate", "Allocate", " allocate", "allocated", "al\0locate", "<b>", &long_type];
    for (number, kind) in kinds.into_iter().enumerate() {
        let sent = properties(kind, &format!("type {number}"));
        all.push(malformed(kind, "allocate", valid_line(), UNKNOWN).with(sent));
    }
    for content_type in ["text/plain", "application/xml", "json"] {
        let sent = properties("allocate", content_type).with_content_type(content_type.into());
        all.push(malformed(content_type, "allocate", valid_line(), INVALID).with(sent));
    }
    for encoding in ["gzip", "deflate", "br"] {
        let sent = properties("allocate", encoding).with_content_encoding(encoding.into());
        all.push(malformed(encoding, "allocate", valid_line(), INVALID).with(sent));
    }
    all
}

fn too_large() -> Vec<Malformed> {
    let long = || text(&"h".repeat(MANY_HEADER_BYTES));
    let mut many = FieldTable::default();
    for number in 0..10_000 {
        many.insert(format!("h-{number:04}").into(), AMQPValue::LongInt(number));
    }
    vec![
        malformed("a byte too many", "allocate", padded(valid_line(), BODY_LIMIT + 1), TOO_LARGE),
        malformed("20 MiB", "allocate", padded(valid_line(), 20 * 1024 * 1024), TOO_LARGE),
        malformed("a long header", "allocate", valid_line(), TOO_LARGE)
            .with_headers(headers([("long", long())])),
        malformed("a long header inside", "allocate", valid_line(), TOO_LARGE)
            .with_headers(headers([("outer", AMQPValue::FieldTable(headers([("inner", long())])))])),
        malformed("many headers", "allocate", valid_line(), TOO_LARGE).with_headers(many),
    ]
}

/// Headers as brokers, tools and attackers add them. The reason of the failure is the empty body.
fn unusual_headers() -> Vec<Malformed> {
    let death = headers([
        ("reason", text("delivery_limit")),
        ("count", AMQPValue::LongLongInt(1_000_000)),
        ("queue", text("another.queue")),
        ("exchange", text("")),
        ("routing-keys", AMQPValue::FieldArray(vec![text("create_batch")].into())),
    ]);
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into());
    let unbound = || AMQPValue::FieldArray(vec![text("no.such.queue")].into());
    let deep = (0..64).fold(text("bottom"), |inner, _| AMQPValue::FieldTable(headers([("inner", inner)])));
    let tables = [
        ("every type of header", every_type()),
        ("deep headers", headers([("outer", deep)])),
        (
            "a header that is not UTF-8",
            headers([("bytes", AMQPValue::LongString(vec![0xff_u8, 0xfe].into()))]),
        ),
        ("a NUL in a header", headers([("nul", text("a\0b"))])),
        (
            "a forged x-death",
            headers([("x-death", deaths), ("x-first-death-reason", text("delivery_limit"))]),
        ),
        ("a forged delivery count", headers([("x-delivery-count", AMQPValue::LongLongInt(1_000_000))])),
        ("a high attempt", headers([("x-attempt", AMQPValue::LongInt(1_000_000_000))])),
        ("a negative attempt", headers([("x-attempt", AMQPValue::LongInt(-1))])),
        ("an attempt that is no number", headers([("x-attempt", text("abc"))])),
        ("a forged generation", headers([("x-allocation-generation", AMQPValue::LongLongInt(i64::MAX))])),
        ("carbon copies", headers([("CC", unbound()), ("BCC", unbound())])),
    ];
    let mut all: Vec<_> = tables
        .into_iter()
        .map(|(name, headers)| malformed(name, "allocate", "{}", INVALID).with_headers(headers))
        .collect();
    let unusual = properties("allocate", "unusual properties")
        .with_delivery_mode(1)
        .with_priority(255)
        .with_timestamp(u64::MAX)
        .with_reply_to("somewhere".into())
        .with_correlation_id("a nul \0".into())
        .with_app_id("<script>alert(1)</script>".into());
    all.push(malformed("unusual properties", "allocate", "{}", INVALID).with(unusual));
    all
}

fn every_type() -> FieldTable {
    headers([
        ("boolean", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(8)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("u16", AMQPValue::ShortUInt(16)),
        ("i32", AMQPValue::LongInt(-32)),
        ("u32", AMQPValue::LongUInt(32)),
        ("i64", AMQPValue::LongLongInt(-64)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(-0.25)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 })),
        ("text", text("text")),
        ("array", AMQPValue::FieldArray(vec![text("one"), AMQPValue::Void].into())),
        ("time", AMQPValue::Timestamp(1_800_000_000)),
        ("table", AMQPValue::FieldTable(headers([("inner", text("text"))]))),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("void", AMQPValue::Void),
    ])
}

/// Valid messages that a rule rejects, some with content that must be neither executed nor rendered.
fn rejected() -> Vec<Malformed> {
    let mut all = vec![
        malformed("another quantity", "allocate", line(r#""o-known""#, r#""LAMP""#, "2"), REJECTED),
        malformed("another batch", "create_batch", r#"{"ref": "b-1", "sku": "LAMP", "qty": 7}"#, REJECTED),
        malformed("no such batch", "change_batch_quantity", r#"{"batchref": "no-such", "qty": 7}"#, REJECTED),
        malformed("an id that was used", "allocate", line(r#""o-other""#, r#""LAMP""#, "1"), CONFLICT)
            .with(properties("allocate", &known_line().message_id)),
    ];
    let injections = [
        "<script>alert(document.cookie)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'; drop table order_lines; --",
        "%s%n${jndi:ldap://x}{{7*7}}",
        "../../../../etc/passwd",
        "\u{202e}reversed \u{1f469}\u{200d}\u{1f680}\u{fffe}",
    ];
    for (number, text) in injections.into_iter().enumerate() {
        let body = json!({ "orderid": text, "sku": text, "qty": 1 }).to_string();
        all.push(malformed(&format!("injection {number}"), "allocate", body, REJECTED));
    }
    all
}

/// The line that is handled before all other messages.
pub(super) fn known_line() -> Command {
    allocate("o-known", "LAMP", 1)
}
