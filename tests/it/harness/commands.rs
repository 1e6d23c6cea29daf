//! Commands, and pseudorandom numbers.

use serde_json::{Value, json};

/// A command with its message id.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) kind: &'static str,
    pub(crate) message_id: String,
    pub(crate) body: Value,
}

impl Command {
    /// The same command with another message id.
    pub(crate) fn with_id(self, message_id: &str) -> Self {
        Self { message_id: message_id.to_owned(), ..self }
    }

    /// The same command with another value of a field.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    /// The name of its queue, without the namespace.
    pub(crate) fn queue(&self) -> &'static str {
        match self.kind {
            "allocate" | "deallocate" => "orders",
            _ => "stock",
        }
    }
}

pub(crate) fn create_batch(reference: &str, sku: &str, qty: u32) -> Command {
    Command {
        kind: "create_batch",
        message_id: format!("create {reference}"),
        body: json!({ "ref": reference, "sku": sku, "qty": qty, "eta": null }),
    }
}

pub(crate) fn allocate(orderid: &str, sku: &str, qty: u32) -> Command {
    Command {
        kind: "allocate",
        message_id: format!("allocate {sku} for {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku, "qty": qty }),
    }
}

pub(crate) fn deallocate(orderid: &str, sku: &str) -> Command {
    Command {
        kind: "deallocate",
        message_id: format!("deallocate {sku} for {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku }),
    }
}

pub(crate) fn change_batch_quantity(batchref: &str, qty: u32) -> Command {
    Command {
        kind: "change_batch_quantity",
        message_id: format!("change {batchref} to {qty}"),
        body: json!({ "batchref": batchref, "qty": qty }),
    }
}

/// Pseudorandom numbers that are reproducible from a seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number in `0..end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.bits() % u64::from(end)).expect("a remainder is smaller than its divisor")
    }

    /// True with this probability in percent.
    pub(crate) fn percent(&mut self, cases: u32) -> bool {
        self.below(100) < cases
    }

    /// A random element.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let count = u32::try_from(items.len()).expect("the number of items fits");
        &items[usize::try_from(self.below(count)).expect("an index fits")]
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
