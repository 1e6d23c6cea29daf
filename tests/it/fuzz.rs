//! Random bodies for the decoder of commands.

use std::collections::BTreeMap;

use allocation::{
    domain::Command,
    ports::{
        queue::{Message, QueueName},
        routing::{ROUTES, queue_of},
    },
    service::{
        decode::decode,
        envelope::{Content, Envelope},
    },
};
use serde_json::{Value, value::RawValue};

use crate::harness::{LIMITS, Random};

/// Valid bodies of every type.
const BODIES: [&str; 4] = [
    r#"{"ref": "b-1", "sku": "LAMP", "qty": 10, "eta": "2027-01-31T10:00:00+02:00"}"#,
    r#"{"orderid": "o-1", "sku": "LAMP", "qty": "10", "more": [{"x": null}, 1.5e300, "\ud83d\ude00"]}"#,
    r#"{"orderid": "o-1", "sku": "L\u0000AMP"}"#,
    r#"{"batchref": "b-1", "qty": 0, "revision": "7"}"#,
];

/// A valid body with up to five random changes: a byte is replaced, or a part is removed or repeated.
fn body(random: &mut Random) -> Vec<u8> {
    let mut body = random.pick(&BODIES).as_bytes().to_vec();
    for _ in 0..random.below(6) {
        let length = u32::try_from(body.len()).unwrap().max(1);
        let (from, to) = (random.below(length) as usize, random.below(length + 1) as usize);
        let to = to.min(body.len());
        match random.below(4) {
            0 if !body.is_empty() => body[from] = u8::try_from(random.below(256)).unwrap(),
            1 => body.truncate(from),
            2 if from < to => drop(body.drain(from..to)),
            3 if from < to => {
                let piece = body[from..to].repeat(1 + random.below(40) as usize);
                body.splice(to..to, piece);
            }
            _ => {}
        }
    }
    body
}

/// Whether the content has the values that a general JSON reader finds in the body. Values of unknown fields may be invalid.
fn agrees(content: &Content, body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text).unwrap_or_default();
    let value = |field: &str| -> Value {
        fields.get(field).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    };
    let text = |field: &str, text: &str| value(field) == text;
    let qty = |qty: u32| {
        let found = value("qty");
        let digits = found.as_str().and_then(|digits| digits.parse().ok());
        found.as_u64().or(digits) == Some(qty.into())
    };
    let line = |orderid: &str, sku: &str| text("orderid", orderid) && text("sku", sku);
    let command = match content {
        Content::Command(command) => command,
        Content::OutOfStock(n) => {
            return line(n.orderid.as_str(), n.sku.as_str()) && qty(n.qty.get());
        }
    };
    match command {
        Command::CreateBatch(c) => {
            text("ref", c.reference.as_str()) && text("sku", c.sku.as_str()) && qty(c.qty.get())
        }
        Command::Allocate(c) => line(c.orderid.as_str(), c.sku.as_str()) && qty(c.qty.get()),
        Command::Deallocate(c) => line(c.orderid.as_str(), c.sku.as_str()),
        Command::ChangeBatchQuantity(c) => text("batchref", c.reference.as_str()) && qty(c.qty.get()),
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// `FUZZ_INPUTS=5000000 FUZZ_SEED=8 cargo test --release random_bodies` for a long run with other bodies.
#[test]
fn random_bodies_are_rejected_or_decoded_like_any_json() {
    let (inputs, seed) = (from_environment("FUZZ_INPUTS", 20_000), from_environment("FUZZ_SEED", 7));
    println!("FUZZ_SEED={seed}");
    let (mut random, mut accepted) = (Random::seeded(seed), 0);
    let kinds: Vec<_> =
        ["", "x", "allocate"].into_iter().chain(ROUTES.iter().map(|route| route.kind)).collect();
    for _ in 0..inputs {
        let (body, kind) = (body(&mut random), (*random.pick(&kinds)).to_owned());
        let message = Message {
            kind,
            message_id: Some("m1".into()),
            body: body.as_slice().into(),
            ..Message::default()
        };
        match decode(queue_of(&message.kind).unwrap_or(QueueName::Orders), &message, LIMITS) {
            Ok(Envelope { content, .. }) => {
                accepted += 1;
                assert!(agrees(&content, &body), "{content:?}: {}", String::from_utf8_lossy(&body));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!((inputs / 50..inputs / 2).contains(&accepted), "{accepted} of {inputs} bodies were accepted");
}
