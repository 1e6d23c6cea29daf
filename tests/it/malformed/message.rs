//! A malformed message, with the reason of its failure.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::harness::{RawMessage, TestSystem, properties};

/// The default of `limits.body_bytes`.
pub(super) const BODY_LIMIT: usize = 256 * 1024;

pub(super) const INVALID: &str = "invalid_message";
pub(super) const UNKNOWN: &str = "unknown_command";
pub(super) const MISSING_ID: &str = "missing_message_id";
pub(super) const CONFLICT: &str = "message_id_conflict";
pub(super) const TOO_LARGE: &str = "too_large";
pub(super) const REJECTED: &str = "rejected";

/// The route of a message to its queue.
pub(super) enum Route {
    /// By the exchange for commands, with a routing key.
    Key(&'static str),
    /// Directly into the queue for orders, without a binding.
    Orders,
}

pub(super) struct Malformed {
    pub(super) name: String,
    route: Route,
    properties: BasicProperties,
    pub(super) body: Vec<u8>,
    pub(super) reason: &'static str,
}

pub(super) fn malformed(
    name: &str,
    kind: &'static str,
    body: impl Into<Vec<u8>>,
    reason: &'static str,
) -> Malformed {
    Malformed {
        name: name.to_owned(),
        route: Route::Key(kind),
        properties: properties(kind, &format!("malformed: {name:.200}")),
        body: body.into(),
        reason,
    }
}

impl Malformed {
    pub(super) fn with(self, properties: BasicProperties) -> Self {
        Self { properties, ..self }
    }

    pub(super) fn with_headers(self, headers: FieldTable) -> Self {
        let properties = self.properties.clone().with_headers(headers);
        self.with(properties)
    }

    pub(super) fn straight_to_orders(self) -> Self {
        Self { route: Route::Orders, ..self }
    }

    pub(super) fn raw(&self, system: &TestSystem) -> RawMessage {
        match self.route {
            Route::Key(key) => system.sender.raw(key, self.properties.clone(), &self.body),
            Route::Orders => RawMessage {
                exchange: String::new(),
                routing_key: system.named("orders"),
                properties: self.properties.clone(),
                body: self.body.clone(),
            },
        }
    }

    /// Its id as PostgreSQL can store it: without U+0000.
    pub(super) fn id(&self) -> Option<String> {
        let id = self.properties.message_id().as_ref()?;
        Some(id.as_str().replace('\0', "\u{fffd}"))
    }
}

/// An order line in JSON, of values in JSON.
pub(super) fn line(orderid: &str, sku: &str, qty: &str) -> String {
    format!(r#"{{"orderid": {orderid}, "sku": {sku}, "qty": {qty}}}"#)
}

/// A valid order line.
pub(super) fn valid_line() -> String {
    line(r#""o-bad""#, r#""LAMP""#, "1")
}

/// A valid order line with an additional field.
pub(super) fn line_with(orderid: &str, more: &str) -> String {
    format!(r#"{{"orderid": "{orderid}", "more": {more}, "sku": "LAMP", "qty": 1}}"#)
}

/// JSON that is padded with blanks to a size.
pub(super) fn padded(json: String, bytes: usize) -> String {
    let blanks = " ".repeat(bytes - json.len());
    json + &blanks
}

pub(super) fn nested_json(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(super) fn headers(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}
