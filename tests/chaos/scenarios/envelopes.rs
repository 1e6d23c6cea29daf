//! Invalid properties around a valid body: ids, types, content types and headers.

use lapin::{
    BasicProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    messages::{InvalidMessage, send_among_valid, valid_line},
    worker_crashes::FAST_RETRY,
};
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{Command, allocate, create_batch},
    command_source::{OutgoingMessage, properties},
    test_system::{ALL_ROLES, TestSystem},
    wait::wait_until_equal,
};

pub(super) const INVALID_MESSAGE: &str = "invalid_message";
pub(super) const TOO_LARGE: &str = "too_large";
pub(super) const CONFLICT: &str = "message_id_conflict";
const MISSING_ID: &str = "missing_message_id";
const UNKNOWN_COMMAND: &str = "unknown_command";
/// More than the default of `limits.header_bytes`.
const MANY_HEADER_BYTES: usize = 70_000;

pub(super) async fn invalid_message_ids(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "invalid_message_ids").await?;
    // A message without an id is identified by its body, so this one has a unique body.
    let without_id = BasicProperties::default().with_type("allocate".into());
    let without_id =
        system.command_source.message("allocate", without_id, valid_line("o-without-id").as_bytes());
    let mut invalid = vec![
        InvalidMessage { message: without_id, reason: MISSING_ID },
        InvalidMessage::envelope(&system, properties("allocate", ""), MISSING_ID),
    ];
    let long = "i".repeat(201);
    for id in ["  ", "a bell \u{7}", "a line\nbreak", "a nul \0", &long] {
        invalid.push(InvalidMessage::envelope(&system, properties("allocate", id), INVALID_MESSAGE));
    }
    send_among_valid(system, invalid).await
}

pub(super) async fn unsupported_content(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "unsupported_content").await?;
    let mut invalid = Vec::new();
    for content_type in ["text/plain", "application/xml", "json"] {
        let sent = properties("allocate", content_type).with_content_type(content_type.into());
        invalid.push(InvalidMessage::envelope(&system, sent, INVALID_MESSAGE));
    }
    for encoding in ["gzip", "deflate", "br"] {
        let sent = properties("allocate", encoding).with_content_encoding(encoding.into());
        invalid.push(InvalidMessage::envelope(&system, sent, INVALID_MESSAGE));
    }
    send_among_valid(system, invalid).await
}

pub(super) async fn unknown_command_types(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "unknown_command_types").await?;
    let kinds = ["alocate", "Allocate", " allocate", "allocated", "<b>", "allocate.v2"];
    let mut invalid: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(number, kind)| {
            InvalidMessage::envelope(&system, properties(kind, &format!("type {number}")), UNKNOWN_COMMAND)
        })
        .collect();
    // Directly into the queue, without a binding.
    let without_type = BasicProperties::default().with_message_id("typeless".into());
    let mut direct = InvalidMessage::envelope(&system, without_type, UNKNOWN_COMMAND);
    direct.message = OutgoingMessage {
        exchange: String::new(),
        routing_key: system.qualified("orders"),
        ..direct.message
    };
    invalid.push(direct);
    send_among_valid(system, invalid).await
}

/// Headers whose total size exceeds the limit.
pub(super) fn large_headers(system: &TestSystem<'_>) -> Vec<InvalidMessage> {
    let long = text(&"h".repeat(MANY_HEADER_BYTES));
    let mut many = FieldTable::default();
    for number in 0..10_000 {
        many.insert(format!("h-{number:04}").into(), AMQPValue::LongInt(number));
    }
    let tables = [table([("long", long)]), many];
    let with = |(number, headers): (usize, FieldTable)| {
        let sent = properties("allocate", &format!("headers {number}")).with_headers(headers);
        InvalidMessage::envelope(system, sent, TOO_LARGE)
    };
    tables.into_iter().enumerate().map(with).collect()
}

/// A sender may set the headers that brokers and tools set, but they have no effect: each line is handled once, the
/// failing ones through a retry, and nothing is sent to a queue that a header names.
pub(super) async fn forged_headers(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "forged_headers").await?;
    let channel = system.broker_client.channel().await?;
    let other_queue = system.qualified("other");
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare(other_queue.as_str().into(), durable, FieldTable::default()).await?;
    let mut program = system.start(ALL_ROLES, &FAST_RETRY)?;
    let (accepted, rejected_first) = (
        with_forged_headers(&system, "LAMP", &other_queue),
        with_forged_headers(&system, "LATE-LAMP", &other_queue),
    );
    let (lines, messages): (Vec<_>, Vec<_>) = accepted.into_iter().chain(rejected_first).unzip();
    system.command_source.publish(&messages).await?;
    system.command_source.record(&lines, true);
    let (half, failed) = (i64::try_from(lines.len() / 2)?, "select count(*) from failed_messages");
    wait_until_equal("lines without a batch fail", cluster.timeout(), &half, async || {
        system.count(failed).await
    })
    .await?;
    system.add_evidence(format!("{half} forged messages handled at once, {half} retried"));
    system.send(&[create_batch("late", "LATE-LAMP", 100)]).await?;
    system.wait_handled(lines.len() + 1).await?;
    system.expect("failed messages", &system.count(failed).await?, &half);
    let resolved = "select count(*) from failed_messages where status = 'resolved'";
    system.expect("resolved", &system.count(resolved).await?, &half);
    system.expect(
        "messages in the other queue",
        &system.broker_client.ready_messages(&other_queue).await?,
        &0,
    );
    system.expect("alive", &program.is_alive(), &true);
    channel.queue_delete(other_queue.as_str().into(), QueueDeleteOptions::default()).await?;
    system.finish(vec![program]).await
}

/// A line for each table of forged headers, and its message.
fn with_forged_headers(
    system: &TestSystem<'_>,
    sku: &str,
    other_queue: &str,
) -> Vec<(Command, OutgoingMessage)> {
    let with = |(number, headers): (usize, FieldTable)| {
        let line = allocate(&format!("forged-{number}"), sku, 1);
        let sent = properties("allocate", &line.message_id).with_headers(headers);
        let sent = sent.with_reply_to(other_queue.into());
        let message = system.command_source.message("allocate", sent, line.body.to_string().as_bytes());
        (line, message)
    };
    forged_header_tables(other_queue).into_iter().enumerate().map(with).collect()
}

/// Headers that name another queue wherever possible.
fn forged_header_tables(other_queue: &str) -> Vec<FieldTable> {
    let death = table([
        ("reason", text("delivery_limit")),
        ("count", AMQPValue::LongLongInt(1_000_000)),
        ("queue", text(other_queue)),
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
        table([("CC", AMQPValue::FieldArray(vec![text(other_queue)].into()))]),
        table([("BCC", AMQPValue::FieldArray(vec![text(other_queue)].into()))]),
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
