//! What stands around a body: ids, types, content types and headers that nobody should send.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use super::messages::{Bad, among_good_ones, good_line};
use crate::{
    command::allocate,
    lab::Lab,
    upstream::{Outgoing, properties},
    verdict::Verdict,
    world::World,
};

pub(super) const INVALID: &str = "invalid_message";
pub(super) const TOO_LARGE: &str = "too_large";
pub(super) const CONFLICT: &str = "message_id_conflict";
const MISSING_ID: &str = "missing_message_id";
const UNKNOWN: &str = "unknown_command";
/// More than `limits.headers` takes by default.
const MANY_HEADER_BYTES: usize = 70_000;

pub(super) async fn strange_ids(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "strange_ids").await?;
    // One without an id is known by its body, so this one has a body of its own.
    let anonymous = BasicProperties::default().with_type("allocate".into());
    let anonymous = world.upstream.raw("allocate", anonymous, good_line("o-anonymous").as_bytes());
    let mut bad = vec![
        Bad { message: anonymous, reason: MISSING_ID },
        Bad::envelope(&world, properties("allocate", ""), MISSING_ID),
    ];
    let long = "i".repeat(201);
    for id in ["  ", "a bell \u{7}", "a line\nbreak", "a nul \0", &long] {
        bad.push(Bad::envelope(&world, properties("allocate", id), INVALID));
    }
    among_good_ones(world, bad).await
}

pub(super) async fn strange_content(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "strange_content").await?;
    let mut bad = Vec::new();
    for content_type in ["text/plain", "application/xml", "json"] {
        let sent = properties("allocate", content_type).with_content_type(content_type.into());
        bad.push(Bad::envelope(&world, sent, INVALID));
    }
    for encoding in ["gzip", "deflate", "br"] {
        let sent = properties("allocate", encoding).with_content_encoding(encoding.into());
        bad.push(Bad::envelope(&world, sent, INVALID));
    }
    among_good_ones(world, bad).await
}

pub(super) async fn unknown_types(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "unknown_types").await?;
    let kinds = ["alocate", "Allocate", " allocate", "allocated", "<b>", "allocate.v2"];
    let mut bad: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(number, kind)| Bad::envelope(&world, properties(kind, &format!("type {number}")), UNKNOWN))
        .collect();
    // Straight into the queue, past every binding.
    let nameless = BasicProperties::default().with_message_id("typeless".into());
    let mut straight = Bad::envelope(&world, nameless, UNKNOWN);
    straight.message =
        Outgoing { exchange: String::new(), routing_key: world.named("orders"), ..straight.message };
    bad.push(straight);
    among_good_ones(world, bad).await
}

/// Headers of which the whole is more than is read.
pub(super) fn large_headers(world: &World<'_>) -> Vec<Bad> {
    let long = text(&"h".repeat(MANY_HEADER_BYTES));
    let mut many = FieldTable::default();
    for number in 0..10_000 {
        many.insert(format!("h-{number:04}").into(), AMQPValue::LongInt(number));
    }
    let tables = [table([("long", long)]), many];
    let with = |(number, headers): (usize, FieldTable)| {
        let sent = properties("allocate", &format!("headers {number}")).with_headers(headers);
        Bad::envelope(world, sent, TOO_LARGE)
    };
    tables.into_iter().enumerate().map(with).collect()
}

/// What brokers and tools write on messages is believed to nobody who sends it: the lines are handled, once, as if it
/// were not there, and nothing is sent on.
pub(super) async fn forged_headers(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "forged_headers").await?;
    let mut program = world.healthy()?;
    let mut messages = Vec::new();
    let mut lines = Vec::new();
    for (number, headers) in forgeries().into_iter().enumerate() {
        let line = allocate(&format!("forged-{number}"), "LAMP", 1);
        let sent =
            properties("allocate", &line.message_id).with_headers(headers).with_reply_to("nobody".into());
        let body = good_line(&format!("forged-{number}"));
        messages.push(world.upstream.raw("allocate", sent, body.as_bytes()));
        lines.push(line);
    }
    world.upstream.publish(&messages).await?;
    world.upstream.note(&lines, true);
    world.hit(format!("{} forgeries", lines.len()));
    world.wait_handled(lines.len()).await?;
    world.expect("failed attempts", &world.failed_attempts().await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    world.finish(vec![program]).await
}

fn forgeries() -> Vec<FieldTable> {
    let death = table([
        ("reason", text("delivery_limit")),
        ("count", AMQPValue::LongLongInt(1_000_000)),
        ("queue", text("somebody.elses")),
    ]);
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into());
    let deep = (0..64).fold(text("bottom"), |inner, _| AMQPValue::FieldTable(table([("inner", inner)])));
    vec![
        table([("x-death", deaths), ("x-first-death-reason", text("delivery_limit"))]),
        table([("x-delivery-count", AMQPValue::LongLongInt(1_000_000))]),
        table([("x-attempt", AMQPValue::LongInt(1_000_000_000))]),
        table([("x-attempt", AMQPValue::LongInt(-1))]),
        table([("x-attempt", text("abc"))]),
        table([("x-allocation-generation", AMQPValue::LongLongInt(7))]),
        table([("CC", AMQPValue::FieldArray(vec![text("nobody.listens")].into()))]),
        table([("outer", deep)]),
        table([("bytes", AMQPValue::LongString(vec![0xff_u8, 0xfe].into()))]),
        table([
            ("nothing", AMQPValue::Void),
            ("truth", AMQPValue::Boolean(true)),
            ("half", AMQPValue::Double(0.5)),
        ]),
    ]
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}
