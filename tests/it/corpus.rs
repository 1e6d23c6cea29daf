//! Messages that nobody should send. Each ends in the ledger as it came, with its reason, while its neighbours are
//! handled by a process that neither dies nor grows.

use std::collections::HashMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldTable},
};
use serde_json::{Value, json};

use crate::harness::{Command, DRAINS_WITHIN, Raw, World, allocate, create_batch, properties, wait_for};

/// The default of `limits.body_bytes`.
const BODY_LIMIT: usize = 256 * 1024;
/// More than `limits.header_bytes` takes by default.
const MANY_HEADER_BYTES: usize = 70_000;
/// What a process may need for all of it; the largest message alone has 20 MiB.
const MEMORY_KIB: u64 = 300 * 1024;

const INVALID: &str = "invalid_message";
const UNKNOWN: &str = "unknown_command";
const MISSING_ID: &str = "missing_message_id";
const CONFLICT: &str = "message_id_conflict";
const TOO_LARGE: &str = "too_large";
const REJECTED: &str = "rejected";

/// How a message reaches its queue.
enum Route {
    /// By the exchange for commands.
    Key(&'static str),
    /// Straight into the queue for orders, past every binding.
    Orders,
}

struct Bad {
    name: String,
    route: Route,
    properties: BasicProperties,
    body: Vec<u8>,
    reason: &'static str,
}

fn bad(name: &str, kind: &'static str, body: impl Into<Vec<u8>>, reason: &'static str) -> Bad {
    Bad {
        name: name.to_owned(),
        route: Route::Key(kind),
        properties: properties(kind, &format!("bad: {name:.200}")),
        body: body.into(),
        reason,
    }
}

impl Bad {
    fn with(self, properties: BasicProperties) -> Self {
        Self { properties, ..self }
    }

    fn with_headers(self, headers: FieldTable) -> Self {
        let properties = self.properties.clone().with_headers(headers);
        self.with(properties)
    }

    fn straight_to_orders(self) -> Self {
        Self { route: Route::Orders, ..self }
    }

    fn raw(&self, world: &World) -> Raw {
        match self.route {
            Route::Key(key) => world.sender.raw(key, self.properties.clone(), &self.body),
            Route::Orders => Raw {
                exchange: String::new(),
                routing_key: world.named("orders"),
                properties: self.properties.clone(),
                body: self.body.clone(),
            },
        }
    }

    /// Its id as the ledger can keep it: PostgreSQL has no U+0000.
    fn id(&self) -> Option<String> {
        let id = self.properties.message_id().as_ref()?;
        Some(id.as_str().replace('\0', "\u{fffd}"))
    }
}

/// A line in JSON, its values being JSON themselves.
fn line(orderid: &str, sku: &str, qty: &str) -> String {
    format!(r#"{{"orderid": {orderid}, "sku": {sku}, "qty": {qty}}}"#)
}

/// A line that would be in order.
fn good_line() -> String {
    line(r#""o-bad""#, r#""LAMP""#, "1")
}

/// A line in order with something more in it.
fn line_with(orderid: &str, more: &str) -> String {
    format!(r#"{{"orderid": "{orderid}", "more": {more}, "sku": "LAMP", "qty": 1}}"#)
}

/// JSON of so many bytes, most of them blanks.
fn padded(json: String, bytes: usize) -> String {
    let blanks = " ".repeat(bytes - json.len());
    json + &blanks
}

fn nested_json(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn headers(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn not_json() -> Vec<Bad> {
    let good = good_line();
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts = [
        ("no body", String::new()),
        ("blanks", " \r\n".into()),
        ("an open brace", "{".into()),
        ("cut in a string", good[..14].to_owned()),
        ("cut before its end", good[..good.len() - 1].to_owned()),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("trailing garbage", format!("{good} x")),
        ("two objects", format!("{good}{good}")),
        ("a comment", format!("// urgent\n{good}")),
        ("a trailing comma", good.replace('}', ",}")),
        ("single quotes", good.replace('"', "'")),
        ("bare names", good.replace(r#""qty""#, "qty")),
        ("a line break in a string", good.replace("o-bad", "o\nbad")),
        ("an escape nobody knows", good.replace("o-bad", r"\x41")),
        ("an empty array", "[]".into()),
        ("the values without their names", r#"["o-bad", "LAMP", 1]"#.into()),
        ("an array of lines", format!("[{good}]")),
        ("a string", r#""allocate""#.into()),
        ("a number", "42".into()),
        ("a truth", "true".into()),
        ("null", "null".into()),
        ("a line in a line", format!(r#"{{"allocate": {good}}}"#)),
    ];
    let mut all: Vec<_> =
        texts.into_iter().map(|(name, body)| bad(name, "allocate", body, INVALID)).collect();
    all.push(bad(
        "not UTF-8",
        "allocate",
        b"{\"orderid\": \"\xff\xfe\", \"sku\": \"LAMP\", \"qty\": 1}",
        INVALID,
    ));
    all.push(bad("UTF-16", "allocate", utf16, INVALID));
    all.push(bad("gzip", "allocate", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", INVALID));
    all
}

fn wrong_lines() -> Vec<Bad> {
    let (too_long, deep) = (format!(r#""{}""#, "x".repeat(256)), nested_json(50_000));
    let texts = [
        "7",
        "null",
        "{}",
        "[]",
        "false",
        r#""""#,
        r#"" \t ""#,
        r#""a\u0000b""#,
        r#""\ud800""#,
        &too_long,
        &deep,
    ];
    let quantities = [
        "null",
        "true",
        "{}",
        "[1]",
        r#""""#,
        r#""many""#,
        r#"" 5""#,
        r#""+5""#,
        r#""1.5""#,
        r#""-1""#,
        r#""2147483648""#,
        "0",
        "-1",
        "1.5",
        "1.0",
        "1e3",
        "1e999999",
        "2147483648",
        "18446744073709551616",
        "-9223372036854775809",
        "NaN",
        "0x10",
        "01",
        &deep,
    ];
    let (orderid, sku) = (r#""o-bad""#, r#""LAMP""#);
    let mut all = Vec::new();
    for value in texts {
        all.push(bad(&format!("orderid {value:.20}"), "allocate", line(value, sku, "1"), INVALID));
        all.push(bad(&format!("sku {value:.20}"), "allocate", line(orderid, value, "1"), INVALID));
    }
    for value in quantities {
        all.push(bad(&format!("qty {value:.24}"), "allocate", line(orderid, sku, value), INVALID));
    }
    all
}

fn wrong_fields() -> Vec<Bad> {
    [
        ("allocate", "{}"),
        ("allocate", r#"{"sku": "LAMP", "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "sku": "LAMP"}"#),
        ("allocate", r#"{"orderid": "o-bad", "sku": "LAMP", "qty": 1, "qty": 1}"#),
        ("allocate", r#"{"orderid": "o-bad", "orderid": "o-bad", "sku": "LAMP", "qty": 1}"#),
        ("deallocate", r#"{"sku": "LAMP"}"#),
        ("deallocate", r#"{"orderid": "o-bad"}"#),
        ("deallocate", r#"{"orderid": "o-bad", "sku": 7}"#),
        ("create_batch", r#"{"sku": "LAMP", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP"}"#),
        ("create_batch", r#"{"ref": "  ", "sku": "LAMP", "qty": 1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": -1}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "tomorrow"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "2027-02-30"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "31-01-2027"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": "2027-01-31T25:00:00"}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": ""}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": 20270131}"#),
        ("create_batch", r#"{"ref": "b-bad", "sku": "LAMP", "qty": 1, "eta": true}"#),
        ("change_batch_quantity", r#"{"qty": 1}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1"}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": -1}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": 1.5}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": "last"}"#),
        ("change_batch_quantity", r#"{"batchref": "b-1", "qty": 1, "revision": 1e30}"#),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (kind, body))| bad(&format!("fields {number} of {kind}"), kind, body, INVALID))
    .collect()
}

fn strange_envelopes() -> Vec<Bad> {
    let without_id = BasicProperties::default().with_type("allocate".into());
    let anonymous = line(r#""o-anonymous""#, r#""LAMP""#, "1");
    let mut all = vec![
        bad("no id", "allocate", anonymous, MISSING_ID).with(without_id),
        bad("an empty id", "allocate", good_line(), MISSING_ID).with(properties("allocate", "")),
        bad("an empty type", "allocate", good_line(), UNKNOWN)
            .straight_to_orders()
            .with(properties("", "no type")),
        bad("no type at all", "allocate", good_line(), UNKNOWN)
            .straight_to_orders()
            .with(BasicProperties::default().with_message_id("typeless".into())),
    ];
    let (long_id, long_type) = ("i".repeat(201), "t".repeat(255));
    let ids = ["  ", "a bell \u{7}", "a line\nbreak", "a tab\t", "a rubout \u{7f}", "a nul \0", &long_id];
    for id in ids {
        all.push(bad(id, "allocate", good_line(), INVALID).with(properties("allocate", id)));
    }
    let kinds = ["alocate", "Allocate", " allocate", "allocated", "al\0locate", "<b>", &long_type];
    for (number, kind) in kinds.into_iter().enumerate() {
        let sent = properties(kind, &format!("type {number}"));
        all.push(bad(kind, "allocate", good_line(), UNKNOWN).with(sent));
    }
    for content_type in ["text/plain", "application/xml", "json"] {
        let sent = properties("allocate", content_type).with_content_type(content_type.into());
        all.push(bad(content_type, "allocate", good_line(), INVALID).with(sent));
    }
    for encoding in ["gzip", "deflate", "br"] {
        let sent = properties("allocate", encoding).with_content_encoding(encoding.into());
        all.push(bad(encoding, "allocate", good_line(), INVALID).with(sent));
    }
    all
}

fn too_large() -> Vec<Bad> {
    let long = || text(&"h".repeat(MANY_HEADER_BYTES));
    let mut many = FieldTable::default();
    for number in 0..10_000 {
        many.insert(format!("h-{number:04}").into(), AMQPValue::LongInt(number));
    }
    vec![
        bad("a byte too many", "allocate", padded(good_line(), BODY_LIMIT + 1), TOO_LARGE),
        bad("20 MiB", "allocate", padded(good_line(), 20 * 1024 * 1024), TOO_LARGE),
        bad("a long header", "allocate", good_line(), TOO_LARGE).with_headers(headers([("long", long())])),
        bad("a long header inside", "allocate", good_line(), TOO_LARGE)
            .with_headers(headers([("outer", AMQPValue::FieldTable(headers([("inner", long())])))])),
        bad("many headers", "allocate", good_line(), TOO_LARGE).with_headers(many),
    ]
}

/// Headers as brokers, tools and attackers put them on; the body is empty, so that nothing else is wrong.
fn forged() -> Vec<Bad> {
    let death = headers([
        ("reason", text("delivery_limit")),
        ("count", AMQPValue::LongLongInt(1_000_000)),
        ("queue", text("somebody.elses")),
        ("exchange", text("")),
        ("routing-keys", AMQPValue::FieldArray(vec![text("create_batch")].into())),
    ]);
    let deaths = AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into());
    let nobody = || AMQPValue::FieldArray(vec![text("nobody.listens")].into());
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
        ("an attempt in words", headers([("x-attempt", text("abc"))])),
        ("a forged generation", headers([("x-allocation-generation", AMQPValue::LongLongInt(i64::MAX))])),
        ("carbon copies", headers([("CC", nobody()), ("BCC", nobody())])),
    ];
    let mut all: Vec<_> = tables
        .into_iter()
        .map(|(name, headers)| bad(name, "allocate", "{}", INVALID).with_headers(headers))
        .collect();
    let strange = properties("allocate", "strange properties")
        .with_delivery_mode(1)
        .with_priority(255)
        .with_timestamp(u64::MAX)
        .with_reply_to("somewhere".into())
        .with_correlation_id("a nul \0".into())
        .with_app_id("<script>alert(1)</script>".into());
    all.push(bad("strange properties", "allocate", "{}", INVALID).with(strange));
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

/// Readable, and against a rule. Nothing in them is ever run or rendered.
fn against_the_rules() -> Vec<Bad> {
    let mut all = vec![
        bad("another quantity", "allocate", line(r#""o-known""#, r#""LAMP""#, "2"), REJECTED),
        bad("another batch", "create_batch", r#"{"ref": "b-1", "sku": "LAMP", "qty": 7}"#, REJECTED),
        bad("no such batch", "change_batch_quantity", r#"{"batchref": "no-such", "qty": 7}"#, REJECTED),
        bad("an id that was used", "allocate", line(r#""o-other""#, r#""LAMP""#, "1"), CONFLICT)
            .with(properties("allocate", &known_line().message_id)),
    ];
    let evil = [
        "<script>alert(document.cookie)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'; drop table order_lines; --",
        "%s%n${jndi:ldap://x}{{7*7}}",
        "../../../../etc/passwd",
        "\u{202e}reversed \u{1f469}\u{200d}\u{1f680}\u{fffe}",
    ];
    for (number, evil) in evil.into_iter().enumerate() {
        let body = json!({ "orderid": evil, "sku": evil, "qty": 1 }).to_string();
        all.push(bad(&format!("evil {number}"), "allocate", body, REJECTED));
    }
    all
}

fn corpus() -> Vec<Bad> {
    let groups = [
        not_json(),
        wrong_lines(),
        wrong_fields(),
        strange_envelopes(),
        too_large(),
        forged(),
        against_the_rules(),
    ];
    groups.into_iter().flatten().collect()
}

/// The line that is there before everything else.
fn known_line() -> Command {
    allocate("o-known", "LAMP", 1)
}

/// Unusual, and in order.
fn unusual() -> Vec<(BasicProperties, String)> {
    let at_the_limit = line(r#""at-the-limit""#, r#""LAMP""#, "1");
    let (longest_id, foreign_id) = ("i".repeat(200), "é".repeat(120));
    let longest_order = format!(r#""{}""#, "ö".repeat(255));
    let sent = |id: &str| properties("allocate", id);
    vec![
        (sent("the limit"), padded(at_the_limit, BODY_LIMIT)),
        (sent(&longest_id), line_with("longest-id", "0")),
        (sent(&foreign_id), line_with("foreign-id", "0")),
        (sent("longest order"), line(&longest_order, r#""LAMP""#, "1")),
        (sent("digits"), line(r#""digits""#, r#""LAMP""#, r#""0001""#)),
        (sent("unknown field"), line_with("unknown-field", r#"{"a": [1, {"b": null}]}"#)),
        (
            sent("charset").with_content_type("application/json; charset=utf-8".into()),
            line_with("charset", "0"),
        ),
        (sent("encoding").with_content_encoding("utf-8".into()), line_with("encoding", "0")),
        (BasicProperties::default().with_message_id("bare".into()), line_with("bare", "0")),
    ]
}

/// At the edge: handled or dead as unreadable, but nothing else.
fn at_the_edge() -> Vec<(BasicProperties, String)> {
    let mut all = Vec::new();
    for depth in [127, 128, 129, 50_000] {
        all.push(line_with(&format!("depth-{depth}"), &nested_json(depth)));
    }
    all.push(line_with("huge", "1e999999"));
    all.push(line_with("nul", r#""\u0000""#));
    all.push(line_with("half", r#""\ud800""#));
    all.push(line_with("twice", r#"1, "more": 2"#));
    let mut all: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(number, body)| (properties("allocate", &format!("edge-{number}")), body))
        .collect();
    let correlated = properties("allocate", "edge-correlation").with_correlation_id("a nul \0".into());
    all.push((correlated, line_with("correlation", "0")));
    let trace = headers([("traceparent", text("a nul \0"))]);
    all.push((properties("allocate", "edge-trace").with_headers(trace), line_with("trace", "0")));
    all
}

/// What the ledger knows, by message id and body.
async fn ledger(world: &World) -> HashMap<(Option<String>, Vec<u8>), String> {
    let rows: Vec<(Option<String>, Vec<u8>, String)> =
        sqlx::query_as("select message_id, body, reason from failed_messages where status = 'dead'")
            .fetch_all(&world.pool)
            .await
            .expect("the ledger can be read");
    rows.into_iter().map(|(id, body, reason)| ((id, body), reason)).collect()
}

/// Every bad message, each with a good neighbour, then the others.
fn messages(world: &World, corpus: &[Bad]) -> Vec<Raw> {
    let mut messages = Vec::new();
    for (number, bad) in corpus.iter().enumerate() {
        let neighbour = allocate(&format!("neighbour-{number}"), "LAMP", 1);
        let sent = properties(neighbour.kind, &neighbour.message_id);
        messages.push(bad.raw(world));
        messages.push(world.sender.raw(neighbour.kind, sent, neighbour.body.to_string().as_bytes()));
    }
    for (sent, body) in unusual().into_iter().chain(at_the_edge()) {
        messages.push(world.sender.raw("allocate", sent, body.as_bytes()));
    }
    messages
}

/// The body as `dead-letters show` prints it.
async fn shown(world: &World, body: &[u8]) -> Value {
    let id: String = sqlx::query_scalar("select min(id)::text from failed_messages where body = $1")
        .bind(body)
        .fetch_one(&world.pool)
        .await
        .expect("the body is in the ledger");
    world.cli(&["dead-letters", "show", &id, "--json"]).await.exits(0).json()["body"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_end_in_the_ledger_and_their_neighbours_are_handled() {
    let world = World::new("bad_messages_end_in_the_ledger_and_their_neighbours_are_handled").await;
    let mut worker = world.worker_with(&[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]);
    world.sender.send(&create_batch("b-1", "LAMP", 100_000)).await;
    world.wait_handled(1).await;
    world.sender.send(&known_line()).await;
    world.wait_drained(2).await;

    let corpus = corpus();
    assert!(corpus.len() >= 60, "{}", corpus.len());
    let sent = messages(&world, &corpus);
    world.sender.publish_all(&sent).await;
    let ended = async || {
        let dead = world.count("select count(*) from failed_messages where status = 'dead'").await;
        world.handled().await + dead
    };
    wait_for("every message has an end", DRAINS_WITHIN, &i64::try_from(2 + sent.len()).unwrap(), ended).await;

    let mut ledger = ledger(&world).await;
    for bad in &corpus {
        let reason = ledger.remove(&(bad.id(), bad.body.clone()));
        assert_eq!(reason.as_deref(), Some(bad.reason), "{:?} {:?}", bad.name, bad.id());
    }
    for ((id, _), reason) in &ledger {
        let edge = id.as_deref().is_some_and(|id| id.starts_with("edge-"));
        assert!(edge && reason == INVALID, "{id:?} is dead: {reason}");
    }
    assert!(worker.is_alive());
    let peak = worker.peak_memory_kib();
    assert!(peak < MEMORY_KIB, "{peak} KiB");

    world.expect_dead(i64::try_from(corpus.len() + ledger.len()).unwrap());
    world.settled(2 + sent.len() - corpus.len() - ledger.len()).await;
    world.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_body_is_shown_as_it_came() {
    let world = World::new("a_dead_body_is_shown_as_it_came").await;
    let worker = world.worker();
    let (html, nul, binary) =
        (&b"<script>alert(1)</script>"[..], &b"{\"orderid\": \"a\\u0000\", \0"[..], &b"\xff\x00\xfe"[..]);
    for body in [html, nul, binary] {
        let id = format!("message {}", body.len());
        world.sender.publish_raw("allocate", properties("allocate", &id), body).await;
    }
    let dead = async || world.count("select count(*) from failed_messages where status = 'dead'").await;
    wait_for("all are dead", DRAINS_WITHIN, &3, dead).await;
    world.expect_dead(3);
    assert_eq!(shown(&world, html).await, json!("<script>alert(1)</script>"));
    assert_eq!(shown(&world, nul).await, json!("{\"orderid\": \"a\\u0000\", \0"));
    assert_eq!(shown(&world, binary).await, json!({ "base64": "/wD+" }));
    world.close_after([worker]).await;
}
