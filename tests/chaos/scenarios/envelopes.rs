//! What stands around a body: ids, types, content types and headers that nobody should send.

use lapin::{
    BasicProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    messages::{Bad, among_good_ones, good_line},
    worker_deaths::SOON,
};
use crate::{
    command::{Command, allocate, create_batch},
    lab::Lab,
    upstream::{Outgoing, properties},
    verdict::Verdict,
    wait::until_is,
    world::{ALL_ROLES, World},
};

pub(super) const INVALID: &str = "invalid_message";
pub(super) const TOO_LARGE: &str = "too_large";
pub(super) const CONFLICT: &str = "message_id_conflict";
const MISSING_ID: &str = "missing_message_id";
const UNKNOWN: &str = "unknown_command";
/// More than `limits.header_bytes` takes by default.
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
/// were not there, those that fail at first by way of a retry; and nothing is sent on to whom a header names.
pub(super) async fn forged_headers(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "forged_headers").await?;
    let channel = world.link.channel().await?;
    let elsewhere = world.named("somebody.elses");
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare(elsewhere.as_str().into(), durable, FieldTable::default()).await?;
    let mut program = world.start(ALL_ROLES, &SOON)?;
    let (at_once, later) = (forged(&world, "LAMP", &elsewhere), forged(&world, "LATE-LAMP", &elsewhere));
    let (lines, messages): (Vec<_>, Vec<_>) = at_once.into_iter().chain(later).unzip();
    world.upstream.publish(&messages).await?;
    world.upstream.note(&lines, true);
    let (each, failed) = (i64::try_from(lines.len() / 2)?, "select count(*) from failed_messages");
    until_is("those without a batch fail", lab.patience(), &each, async || world.count(failed).await).await?;
    world.hit(format!("{each} forgeries handled at once, {each} retried"));
    world.send(&[create_batch("late", "LATE-LAMP", 100)]).await?;
    world.wait_handled(lines.len() + 1).await?;
    world.expect("failed at first", &world.count(failed).await?, &each);
    let resolved = "select count(*) from failed_messages where status = 'resolved'";
    world.expect("resolved", &world.count(resolved).await?, &each);
    world.expect("sent on", &world.link.ready(&elsewhere).await?, &0);
    world.expect("alive", &program.is_alive(), &true);
    channel.queue_delete(elsewhere.as_str().into(), QueueDeleteOptions::default()).await?;
    world.finish(vec![program]).await
}

/// A line of a SKU for each forgery, and as it is sent.
fn forged(world: &World<'_>, sku: &str, elsewhere: &str) -> Vec<(Command, Outgoing)> {
    let with = |(number, headers): (usize, FieldTable)| {
        let line = allocate(&format!("forged-{number}"), sku, 1);
        let sent = properties("allocate", &line.message_id).with_headers(headers);
        let sent = sent.with_reply_to(elsewhere.into());
        let message = world.upstream.raw("allocate", sent, line.body.to_string().as_bytes());
        (line, message)
    };
    forgeries(elsewhere).into_iter().enumerate().map(with).collect()
}

/// Headers that name a queue of somebody else's wherever they can.
fn forgeries(elsewhere: &str) -> Vec<FieldTable> {
    let death = table([
        ("reason", text("delivery_limit")),
        ("count", AMQPValue::LongLongInt(1_000_000)),
        ("queue", text(elsewhere)),
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
        table([("CC", AMQPValue::FieldArray(vec![text(elsewhere)].into()))]),
        table([("BCC", AMQPValue::FieldArray(vec![text(elsewhere)].into()))]),
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
