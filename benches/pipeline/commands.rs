//! The commands of the measurements, about a thousand SKUs; every round sends the same ones.

use serde_json::{Value, json};

/// The SKUs, each with one batch.
pub(crate) const SKUS: u32 = 1000;
/// The quantity of each batch: more than all commands allocate.
const STOCK: u32 = 1_000_000_000;
/// The seed of the sequence of SKUs.
const SEED: u64 = 1;
/// The prefix of the order ids. They sort after those of [`crate::dataset`], like newer numbers.
const ORDER: &str = "order-";

/// A command of a sender.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) kind: &'static str,
    pub(crate) message_id: String,
    pub(crate) body: Value,
}

/// A SKU by its number, from 1.
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

/// An order line of one unit.
pub(crate) fn allocate(order: u32, sku: &str) -> Command {
    let orderid = format!("{ORDER}{order:09}");
    Command {
        kind: "allocate",
        message_id: format!("allocate {orderid}"),
        body: json!({ "orderid": orderid, "sku": sku, "qty": 1 }),
    }
}

/// The number of the order of an event, if it is one of [`allocate`].
pub(crate) fn order_of(event: &[u8]) -> Option<u32> {
    let body: Value = serde_json::from_slice(event).ok()?;
    body.get("orderid")?.as_str()?.strip_prefix(ORDER)?.parse().ok()
}

/// The distribution of the commands over the SKUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkuDistribution {
    /// Uniform.
    Even,
    /// Nine of ten commands are for ten SKUs.
    TenHot,
    /// All commands are for one SKU.
    OneHot,
}

impl SkuDistribution {
    /// `count` commands of type `allocate`, beginning with the order `first`.
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

/// Pseudorandom numbers that are reproducible from a seed (splitmix64).
struct Random(u64);

impl Random {
    /// A number in `0..end`.
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(end))
            .expect("a remainder is smaller than its divisor")
    }
}
