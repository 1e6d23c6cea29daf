//! The time to decode a body is proportional to its size, whatever it contains.

use std::time::{Duration, Instant};

use allocation::{
    ports::queue::{Message, QueueName},
    service::{decode::Limits, received::ReceivedMessage},
};

const LIMITS: Limits = Limits { body_bytes: 1 << 20, header_bytes: 1 << 16 };
const SMALL: usize = 16 << 10;
const FACTOR: usize = 32;
/// A quadratic case would be at `FACTOR * FACTOR`. Other processes may slow down each measurement.
const MOST: u32 = 128;
/// Below this the clock and other processes count for too much.
const MEASURABLE: Duration = Duration::from_micros(200);

fn repeated(text: &str, size: usize) -> String {
    text.repeat(size / text.len())
}

/// Makes a body of this size.
type MakeBody = fn(usize) -> String;

/// Bodies that were chosen to be expensive.
const SHAPES: [(&str, MakeBody); 10] = [
    ("unknown fields", |size| {
        let fields: Vec<_> = (0..size / 14).map(|number| format!("\"k{number:07}\": 0")).collect();
        format!("{{{}}}", fields.join(","))
    }),
    ("equal fields", |size| format!("{{{}\"qty\": 1}}", repeated("\"qty\": 1,", size))),
    ("a long number", |size| format!("{{\"qty\": {}}}", repeated("9", size))),
    ("a long exponent", |size| format!("{{\"qty\": 1e{}}}", repeated("9", size))),
    ("a long string", |size| format!("{{\"sku\": \"{}\"}}", repeated("a", size))),
    ("escapes", |size| format!("{{\"sku\": \"{}\"}}", repeated("\\u00e9", size))),
    ("an array", |size| format!("{{\"sku\": [{}0]}}", repeated("0,", size))),
    ("nested arrays", |size| format!("{{\"sku\": {}", repeated("[", size))),
    ("a buffered field", |size| format!("{{\"revision\": [{}0]}}", repeated("[0],", size))),
    ("blanks", |size| format!("{{{}\"qty\": 1}}", repeated(" ", size))),
];

fn time_to_decode(kind: &str, body: &str) -> Duration {
    let decode = || {
        let message = Message {
            kind: kind.into(),
            message_id: Some("m".into()),
            body: body.as_bytes().into(),
            ..Message::default()
        };
        let begin = Instant::now();
        let received = ReceivedMessage::read(QueueName::Orders, message, false, LIMITS);
        let took = begin.elapsed();
        assert!(received.decoded.is_err(), "{kind} of {} bytes", body.len());
        took
    };
    (0..5).map(|_| decode()).min().unwrap_or_default()
}

#[test]
fn the_time_to_decode_a_body_is_proportional_to_its_size() {
    for kind in ["allocate", "create_batch", "change_batch_quantity", "unknown"] {
        for (shape, body) in SHAPES {
            let small = time_to_decode(kind, &body(SMALL)).max(MEASURABLE);
            let large = time_to_decode(kind, &body(SMALL * FACTOR));
            assert!(large < small * MOST, "{kind}, {shape}: {small:?}, {FACTOR} times the size {large:?}");
        }
    }
}
