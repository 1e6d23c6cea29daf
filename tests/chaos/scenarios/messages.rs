//! Bodies that nobody should send. Each is dead with its bytes and its reason; its neighbours are handled by a process
//! that neither dies nor grows.

use lapin::BasicProperties;

use super::envelopes::{CONFLICT, INVALID, TOO_LARGE};
use crate::{
    command::{allocate, lines_of},
    lab::Lab,
    upstream::{Outgoing, properties},
    verdict::Verdict,
    world::World,
};

/// The default of `limits.body_bytes`.
const BODY_LIMIT: usize = 256 * 1024;
/// What a process may need for all of it; the largest message alone has 20 MiB.
const MEMORY_KIB: u64 = 300 * 1024;

/// A message that is to be dead.
pub(super) struct Bad {
    pub(super) message: Outgoing,
    pub(super) reason: &'static str,
}

impl Bad {
    /// A line with such a body, under an id of its own.
    pub(super) fn line(world: &World<'_>, number: usize, body: &[u8], reason: &'static str) -> Self {
        let properties = properties("allocate", &format!("bad-{number}"));
        Self { message: world.upstream.raw("allocate", properties, body), reason }
    }

    /// A line that is in order but for what stands around it.
    pub(super) fn envelope(world: &World<'_>, properties: BasicProperties, reason: &'static str) -> Self {
        Self { message: world.upstream.raw("allocate", properties, good_line("o-bad").as_bytes()), reason }
    }
}

/// A line in order.
pub(super) fn good_line(orderid: &str) -> String {
    format!(r#"{{"orderid": "{orderid}", "sku": "LAMP", "qty": 1}}"#)
}

/// Sends bad messages among good ones and sees what becomes of both.
pub(super) async fn among_good_ones(world: World<'_>, bad: Vec<Bad>) -> anyhow::Result<Verdict> {
    let mut program = world.healthy()?;
    let good = lines_of("LAMP", "good", 10);
    let (before, after) = good.split_at(5);
    world.send(before).await?;
    for Bad { message, reason } in &bad {
        // PostgreSQL has no U+0000.
        let id = message.properties.message_id().as_ref().map(|id| id.as_str().replace('\0', "\u{fffd}"));
        world.expect_dead(id.as_deref(), reason, &message.body);
    }
    let messages: Vec<_> = bad.into_iter().map(|bad| bad.message).collect();
    world.upstream.publish(&messages).await?;
    world.send(after).await?;
    world.hit(format!("{} bad messages", messages.len()));
    world.drained().await?;
    world.expect("alive", &program.is_alive(), &true);
    world.expect("no memory to speak of", &(program.peak_memory_kib()? < MEMORY_KIB), &true);
    world.finish(vec![program]).await
}

async fn bodies(lab: &Lab, name: &'static str, bodies: &[&[u8]]) -> anyhow::Result<Verdict> {
    let world = World::new(lab, name).await?;
    let bad =
        bodies.iter().enumerate().map(|(number, body)| Bad::line(&world, number, body, INVALID)).collect();
    among_good_ones(world, bad).await
}

pub(super) async fn unreadable_bodies(lab: &Lab) -> anyhow::Result<Verdict> {
    let good = good_line("o-bad");
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (marked, twice) = (format!("\u{feff}{good}"), format!("{good}{good}"));
    let all: [&[u8]; 14] = [
        b"",
        b" \r\n",
        b"{",
        &good.as_bytes()[..good.len() - 1],
        marked.as_bytes(),
        twice.as_bytes(),
        &utf16,
        b"{\"orderid\": \"\xff\xfe\", \"sku\": \"LAMP\", \"qty\": 1}",
        b"{\"orderid\": \"o\nbad\", \"sku\": \"LAMP\", \"qty\": 1}",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        b"[]",
        b"null",
        b"{'orderid': 'o-bad', 'sku': 'LAMP', 'qty': 1}",
        b"{\"sku\": \"LAMP\", \"qty\": 1}",
    ];
    bodies(lab, "unreadable_bodies", &all).await
}

/// Nesting at the reader's limit and far beyond, numbers that are none, names that come twice.
pub(super) async fn extreme_values(lab: &Lab) -> anyhow::Result<Verdict> {
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
    bodies(lab, "extreme_values", &all).await
}

/// A body at the limit is handled; beyond it is not even read.
pub(super) async fn large_messages(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "large_messages").await?;
    let padded = |orderid: &str, bytes: usize| {
        let good = good_line(orderid);
        let blanks = " ".repeat(bytes - good.len());
        good + &blanks
    };
    let at_limit = allocate("o-limit", "LAMP", 1);
    let body = padded("o-limit", BODY_LIMIT);
    world.upstream.note(std::slice::from_ref(&at_limit), true);
    let sent = world.upstream.raw("allocate", properties("allocate", &at_limit.message_id), body.as_bytes());
    world.upstream.publish(&[sent]).await?;
    let mut bad = vec![
        Bad::line(&world, 1, padded("o-bad", BODY_LIMIT + 1).as_bytes(), TOO_LARGE),
        Bad::line(&world, 2, padded("o-bad", 20 * 1024 * 1024).as_bytes(), TOO_LARGE),
    ];
    bad.extend(super::envelopes::large_headers(&world));
    among_good_ones(world, bad).await
}

/// The id of a message that was handled, on another one.
pub(super) async fn same_id_other_body(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "same_id_other_body").await?;
    let first = allocate("first", "LAMP", 1);
    let program = world.healthy()?;
    world.send(std::slice::from_ref(&first)).await?;
    world.wait_handled(1).await?;
    let other = good_line("other");
    let sent = world.upstream.raw("allocate", properties("allocate", &first.message_id), other.as_bytes());
    world.expect_dead(Some(&first.message_id), CONFLICT, other.as_bytes());
    world.upstream.publish(&[sent]).await?;
    let dead = async || world.count("select count(*) from failed_messages where status = 'dead'").await;
    crate::wait::until_is("the second is dead", lab.patience(), &1, dead).await?;
    world.hit("an id used twice".into());
    world.finish(vec![program]).await
}

/// What looks like code is a value, kept letter by letter.
pub(super) async fn code_in_values(lab: &Lab) -> anyhow::Result<Verdict> {
    let world = World::new(lab, "code_in_values").await?;
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
    let program = world.healthy()?;
    let lines: Vec<_> = orderids.iter().map(|orderid| allocate(orderid, "LAMP", 1)).collect();
    world.send(&lines).await?;
    world.wait_handled(lines.len()).await?;
    for orderid in orderids {
        let kept: bool =
            sqlx::query_scalar("select exists (select from allocations_view where orderid = $1)")
                .bind(orderid)
                .fetch_one(&world.pool)
                .await?;
        world.expect(orderid, &kept, &true);
    }
    world.hit(format!("{} values like code", lines.len()));
    world.finish(vec![program]).await
}
