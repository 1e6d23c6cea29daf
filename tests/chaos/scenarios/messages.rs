//! Invalid bodies. Each message is dead-lettered with its bytes and its reason; its neighbours are handled by a
//! process that neither ends nor needs much memory.

use lapin::BasicProperties;

use super::envelopes::{CONFLICT, INVALID_MESSAGE, TOO_LARGE};
use crate::{
    check_report::CheckReport,
    cluster::Cluster,
    command::{allocate, order_lines},
    command_source::{OutgoingMessage, properties},
    test_system::TestSystem,
};

/// The default of `limits.body_bytes`.
const BODY_LIMIT: usize = 256 * 1024;
/// Memory limit of the process; the largest message alone has 20 MiB.
const MEMORY_KIB: u64 = 300 * 1024;

/// A message that must be dead-lettered.
pub(super) struct InvalidMessage {
    pub(super) message: OutgoingMessage,
    pub(super) reason: &'static str,
}

impl InvalidMessage {
    /// A line with this body, under a unique id.
    pub(super) fn line(system: &TestSystem<'_>, number: usize, body: &[u8], reason: &'static str) -> Self {
        let properties = properties("allocate", &format!("bad-{number}"));
        Self { message: system.command_source.message("allocate", properties, body), reason }
    }

    /// A valid line with these properties.
    pub(super) fn envelope(
        system: &TestSystem<'_>,
        properties: BasicProperties,
        reason: &'static str,
    ) -> Self {
        Self {
            message: system.command_source.message("allocate", properties, valid_line("o-bad").as_bytes()),
            reason,
        }
    }
}

/// A valid line.
pub(super) fn valid_line(orderid: &str) -> String {
    format!(r#"{{"orderid": "{orderid}", "sku": "LAMP", "qty": 1}}"#)
}

/// Sends invalid messages between valid ones and checks the result of both.
pub(super) async fn send_among_valid(
    system: TestSystem<'_>,
    invalid: Vec<InvalidMessage>,
) -> anyhow::Result<CheckReport> {
    let mut program = system.start_all_roles()?;
    let valid = order_lines("LAMP", "good", 10);
    let (before, after) = valid.split_at(5);
    system.send(before).await?;
    for InvalidMessage { message, reason } in &invalid {
        // PostgreSQL cannot store U+0000.
        let id = message.properties.message_id().as_ref().map(|id| id.as_str().replace('\0', "\u{fffd}"));
        system.expect_dead_letter(id.as_deref(), reason, &message.body);
    }
    let messages: Vec<_> = invalid.into_iter().map(|invalid| invalid.message).collect();
    system.command_source.publish(&messages).await?;
    system.send(after).await?;
    system.add_evidence(format!("{} invalid messages", messages.len()));
    system.wait_until_drained().await?;
    system.expect("alive", &program.is_alive(), &true);
    system.expect("memory within the limit", &(program.peak_memory_kib()? < MEMORY_KIB), &true);
    system.finish(vec![program]).await
}

async fn bodies(cluster: &Cluster, name: &'static str, bodies: &[&[u8]]) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, name).await?;
    let invalid = bodies
        .iter()
        .enumerate()
        .map(|(number, body)| InvalidMessage::line(&system, number, body, INVALID_MESSAGE))
        .collect();
    send_among_valid(system, invalid).await
}

pub(super) async fn malformed_bodies(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let valid = valid_line("o-bad");
    let utf16: Vec<u8> = valid.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (with_byte_order_mark, repeated) = (format!("\u{feff}{valid}"), format!("{valid}{valid}"));
    let all: [&[u8]; 14] = [
        b"",
        b" \r\n",
        b"{",
        &valid.as_bytes()[..valid.len() - 1],
        with_byte_order_mark.as_bytes(),
        repeated.as_bytes(),
        &utf16,
        b"{\"orderid\": \"\xff\xfe\", \"sku\": \"LAMP\", \"qty\": 1}",
        b"{\"orderid\": \"o\nbad\", \"sku\": \"LAMP\", \"qty\": 1}",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        b"[]",
        b"null",
        b"{'orderid': 'o-bad', 'sku': 'LAMP', 'qty': 1}",
        b"{\"sku\": \"LAMP\", \"qty\": 1}",
    ];
    bodies(cluster, "malformed_bodies", &all).await
}

/// Nesting at the parser's limit and beyond, invalid numbers, repeated names.
pub(super) async fn extreme_values(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let line = |orderid: &str, qty: &str| format!(r#"{{"orderid": {orderid}, "sku": "LAMP", "qty": {qty}}}"#);
    let quantities = [
        "1e999999",
        "2147483648",
        "18446744073709551616",
        "-9223372036854775809",
        "NaN",
        "0",
        "-1",
        "1.5",
        "01",
    ];
    let mut texts: Vec<_> = quantities.iter().map(|qty| line(r#""o-bad""#, qty)).collect();
    texts.extend([128, 129, 50_000].map(|depth| line(&nested(depth), "1")));
    texts.push(line(r#""a\u0000b""#, "1"));
    texts.push(line(r#""\ud800""#, "1"));
    texts.push(r#"{"orderid": "o-bad", "sku": "LAMP", "qty": 1, "qty": 1}"#.to_owned());
    let all: Vec<_> = texts.iter().map(String::as_bytes).collect();
    bodies(cluster, "extreme_values", &all).await
}

/// A body at the limit is handled; a larger one is not parsed.
pub(super) async fn large_messages(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "large_messages").await?;
    let padded = |orderid: &str, bytes: usize| {
        let valid = valid_line(orderid);
        let blanks = " ".repeat(bytes - valid.len());
        valid + &blanks
    };
    let at_limit = allocate("o-limit", "LAMP", 1);
    let body = padded("o-limit", BODY_LIMIT);
    system.command_source.record(std::slice::from_ref(&at_limit), true);
    let sent = system.command_source.message(
        "allocate",
        properties("allocate", &at_limit.message_id),
        body.as_bytes(),
    );
    system.command_source.publish(&[sent]).await?;
    let mut invalid = vec![
        InvalidMessage::line(&system, 1, padded("o-bad", BODY_LIMIT + 1).as_bytes(), TOO_LARGE),
        InvalidMessage::line(&system, 2, padded("o-bad", 20 * 1024 * 1024).as_bytes(), TOO_LARGE),
    ];
    invalid.extend(super::envelopes::large_headers(&system));
    send_among_valid(system, invalid).await
}

/// The id of a handled message, used for another one.
pub(super) async fn message_id_with_different_body(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "message_id_with_different_body").await?;
    let first = allocate("first", "LAMP", 1);
    let program = system.start_all_roles()?;
    system.send(std::slice::from_ref(&first)).await?;
    system.wait_handled(1).await?;
    let different = valid_line("other");
    let sent = system.command_source.message(
        "allocate",
        properties("allocate", &first.message_id),
        different.as_bytes(),
    );
    system.expect_dead_letter(Some(&first.message_id), CONFLICT, different.as_bytes());
    system.command_source.publish(&[sent]).await?;
    let dead = async || system.count("select count(*) from failed_messages where status = 'dead'").await;
    crate::wait::wait_until_equal("the second message is dead", cluster.timeout(), &1, dead).await?;
    system.add_evidence("a message id with two bodies".into());
    system.finish(vec![program]).await
}

/// Values that look like code are stored unchanged.
pub(super) async fn code_in_values(cluster: &Cluster) -> anyhow::Result<CheckReport> {
    let system = TestSystem::new(cluster, "code_in_values").await?;
    let orderids = [
        "'; drop table order_lines; --",
        "1 or 1=1",
        "$1",
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "{{7*7}}",
        "%s%n",
        "../../etc/passwd",
        "\\x00",
    ];
    let program = system.start_all_roles()?;
    let lines: Vec<_> = orderids.iter().map(|orderid| allocate(orderid, "LAMP", 1)).collect();
    system.send(&lines).await?;
    system.wait_handled(lines.len()).await?;
    for orderid in orderids {
        let stored: bool =
            sqlx::query_scalar("select exists (select from allocations_view where orderid = $1)")
                .bind(orderid)
                .fetch_one(&system.pool)
                .await?;
        system.expect(orderid, &stored, &true);
    }
    system.add_evidence(format!("{} values like code", lines.len()));
    system.finish(vec![program]).await
}
