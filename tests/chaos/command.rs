//! Commands, each with one effect that identifies it in the journal.

use serde_json::{Value, json};

/// The change that a handled command makes in the tables, exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// A line is inserted.
    Line { orderid: String, sku: String },
    /// A line is deleted.
    Deallocated { orderid: String, sku: String },
    /// A batch is inserted.
    Batch { reference: String },
    /// The quantity of a batch changes to this one.
    QuantityChange { reference: String, qty: i64 },
}

/// A command with the id that its client assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) kind: &'static str,
    pub(crate) message_id: String,
    pub(crate) body: Value,
    pub(crate) effect: Effect,
}

impl Command {
    /// The short name of its queue.
    pub(crate) fn queue(&self) -> &'static str {
        match self.kind {
            "allocate" | "deallocate" => "orders",
            _ => "stock",
        }
    }

    /// The order whose line it requests, if any. Exactly one event must report the result.
    pub(crate) fn requested_order(&self) -> Option<&str> {
        match &self.effect {
            Effect::Line { orderid, .. } => Some(orderid),
            _ => None,
        }
    }

    /// The command that deallocates the requested line, if any.
    pub(crate) fn deallocation(&self) -> Option<Self> {
        match &self.effect {
            Effect::Line { orderid, sku } => Some(deallocate(orderid, sku)),
            _ => None,
        }
    }
}

pub(crate) fn create_batch(reference: &str, sku: &str, qty: i64) -> Command {
    Command {
        kind: "create_batch",
        message_id: format!("create {reference}"),
        body: json!({ "ref": reference, "sku": sku, "qty": qty, "eta": null }),
        effect: Effect::Batch { reference: reference.to_owned() },
    }
}

pub(crate) fn allocate(orderid: &str, sku: &str, qty: u32) -> Command {
    Command {
        kind: "allocate",
        message_id: format!("allocate {sku} for {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku, "qty": qty }),
        effect: Effect::Line { orderid: orderid.to_owned(), sku: sku.to_owned() },
    }
}

pub(crate) fn deallocate(orderid: &str, sku: &str) -> Command {
    Command {
        kind: "deallocate",
        message_id: format!("deallocate {sku} for {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku }),
        effect: Effect::Deallocated { orderid: orderid.to_owned(), sku: sku.to_owned() },
    }
}

pub(crate) fn change_batch_quantity(reference: &str, qty: i64, revision: Option<i64>) -> Command {
    let body = match revision {
        Some(revision) => json!({ "batchref": reference, "qty": qty, "revision": revision }),
        None => json!({ "batchref": reference, "qty": qty }),
    };
    Command {
        kind: "change_batch_quantity",
        message_id: format!("change {reference} to {qty}"),
        body,
        effect: Effect::QuantityChange { reference: reference.to_owned(), qty },
    }
}

/// `count` lines of one SKU, which share a partition.
pub(crate) fn order_lines(sku: &str, prefix: &str, count: u32) -> Vec<Command> {
    (0..count).map(|number| allocate(&format!("{prefix}-{number}"), sku, 1 + number % 3)).collect()
}
