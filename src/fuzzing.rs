//! Entry points for fuzzing: each parses foreign bytes and checks what must hold for any input.
//!
//! `make fuzz` runs them with generated inputs; the tests replay the inputs in `fuzz/corpus`.

mod common;
mod http;
mod settings;

use crate::{
    adapters::rabbitmq::check_properties,
    bootstrap::check_csv,
    ports::queue::{Message, QueueName},
    service::{
        decode::{checked_id, decode},
        failure::Failure,
    },
};

use common::{LIMITS, assert_printable};

/// A name, and a function that parses an input.
pub type Target = (&'static str, fn(&[u8]));

/// The targets.
pub const TARGETS: [Target; 7] = [
    ("body", body),
    ("properties", properties),
    ("message_id", message_id),
    ("error_pattern", error_pattern),
    ("csv", csv),
    ("settings", settings),
    ("http", http),
];

const KINDS: [(QueueName, &str); 5] = [
    (QueueName::Orders, "allocate"),
    (QueueName::Orders, "deallocate"),
    (QueueName::Stock, "create_batch"),
    (QueueName::Stock, "change_batch_quantity"),
    (QueueName::Notifications, "out_of_stock"),
];

/// The body of a message, from a queue or from an HTTP request.
///
/// # Panics
/// The decoder has a defect.
pub fn body(data: &[u8]) {
    for (queue, kind) in KINDS {
        let message = Message {
            kind: kind.to_owned(),
            message_id: Some("m-1".to_owned()),
            body: data.into(),
            ..Message::default()
        };
        match decode(queue, &message, LIMITS) {
            Ok(envelope) => assert_eq!(envelope.content.kind(), kind),
            Err(error) => assert_printable(&error.to_string()),
        }
    }
}

/// The properties and headers of a message, in AMQP's encoding.
///
/// # Panics
/// They are not kept.
pub fn properties(data: &[u8]) {
    check_properties(data);
}

/// A message id or an idempotency key.
///
/// # Panics
/// An invalid one is accepted.
pub fn message_id(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(id) = checked_id(&text) {
        assert!(!id.is_empty() && id.chars().count() <= 200 && !id.chars().any(char::is_control), "{id:?}");
    }
}

/// The text of an error, which is grouped by its pattern.
///
/// # Panics
/// The pattern has variable values.
pub fn error_pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let pattern = Failure::Panicked(text.clone()).error_pattern();
    assert!(
        pattern.chars().count() <= text.chars().count() + 100,
        "the pattern is not longer than the error"
    );
    assert!(!pattern.chars().any(|character| character.is_ascii_digit()), "{pattern}");
}

/// The CSV files of `allocation csv`: batches, orders and allocations, with a group separator between them.
///
/// # Panics
/// An error does not name its file, or what is written cannot be read again.
pub fn csv(data: &[u8]) {
    check_csv(data);
}

/// A settings file, and the environment: the lines after a group separator.
///
/// # Panics
/// A secret is printed, or an error names no setting.
pub fn settings(data: &[u8]) {
    settings::check(data);
}

/// A request: method and path in the first line, then headers, an empty line, and the body.
///
/// # Panics
/// The response is no answer to the request, or a repeated request has another one.
pub fn http(data: &[u8]) {
    http::check(data);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_corpus_is_accepted() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut inputs = 0;
            for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            {
                target(&fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{name} has inputs");
        }
    }
}
