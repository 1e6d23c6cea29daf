//! What is sent: commands about a thousand SKUs, the same in every round.

use serde_json::{Value, json};

/// SKUs that are measured, each with one batch.
pub(crate) const SKUS: u32 = 1000;
/// What each batch holds: more than is ever asked for.
const STOCK: u32 = 1_000_000_000;
/// Makes the same sequence of SKUs in every measurement.
const SEED: u64 = 1;
/// Sorts behind the lines of [`crate::growth`], as a new order's number does.
const ORDER: &str = "order-";

/// A command as its sender has it.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) kind: &'static str,
    pub(crate) message_id: String,
    pub(crate) body: Value,
}

/// The name of a SKU, counted from 1.
pub(crate) fn sku(number: u32) -> String {
    format!("SKU-{number}")
}

/// The batches of all SKUs.
pub(crate) fn batches() -> impl Iterator<Item = Command> {
    (1..=SKUS).map(|number| create_batch(&format!("batch-{number}"), &sku(number), STOCK))
}

/// A new batch in the warehouse.
pub(crate) fn create_batch(reference: &str, sku: &str, qty: u32) -> Command {
    Command {
        kind: "create_batch",
        message_id: format!("create {reference}"),
        body: json!({ "ref": reference, "sku": sku, "qty": qty, "eta": null }),
    }
}

/// A line that fits.
pub(crate) fn allocate(order: u32, sku: &str) -> Command {
    let orderid = format!("{ORDER}{order:09}");
    Command {
        kind: "allocate",
        message_id: format!("allocate {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku, "qty": 1 }),
    }
}

/// The number of the order that an event is about, if it is one of ours.
pub(crate) fn order_of(event: &[u8]) -> Option<u32> {
    let body: Value = serde_json::from_slice(event).ok()?;
    body.get("orderid")?.as_str()?.strip_prefix(ORDER)?.parse().ok()
}

/// How commands are spread over the SKUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All alike.
    Even,
    /// Nine of ten commands are about ten SKUs.
    TenHot,
    /// There is but one.
    OneHot,
}

impl Spread {
    /// So many `allocate` commands, beginning with the order `first`.
    pub(crate) fn commands(self, first: u32, count: u32) -> impl Iterator<Item = Command> {
        let mut random = Random(SEED);
        (first..first + count).map(move |order| {
            let number = match self {
                Self::Even => 1 + random.below(SKUS),
                Self::TenHot if random.below(10) < 9 => 1 + random.below(10),
                Self::TenHot => 11 + random.below(SKUS - 10),
                Self::OneHot => 1,
            };
            allocate(order, &sku(number))
        })
    }
}

/// Numbers that look random and are the same for the same seed (the generator called splitmix64).
struct Random(u64);

impl Random {
    /// A number from 0 up to, and without, `end`.
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(end))
            .expect("a remainder is smaller than its divisor")
    }
}
