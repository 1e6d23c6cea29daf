//! Messages made up from a seed: commands that work, commands that fail for a while or for ever, and duplicates.
//!
//! Every order, batch and late product has a name of its own, so that what a message did can be read in the tables and
//! events whatever happened before it.

use serde_json::{Value, json};

use crate::{
    command::{allocate, change_batch_quantity, create_batch, deallocate},
    load::SKUS,
    random::Random,
    upstream::{Outgoing, properties},
    world::World,
};

/// How the names of products begin that exist only once a batch of theirs arrives.
const LATE: &str = "LATE";
/// Lines and a batch that exist from the beginning; the same with other content is always rejected.
const ANCHOR: &str = "anchor-";
const ANCHORS: u32 = 8;
const ANCHOR_QTY: u32 = 5;
const ANCHOR_BATCH: i64 = 1000;
/// What a new batch holds, and what it holds after its only change.
const NEW_BATCH: i64 = 60;
const CHANGED_BATCH: i64 = 55;
/// A message that belongs to an earlier one is sent within so many portions after it.
const LATEST_PORTION: u32 = 6;

/// A message as its sender publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) routing_key: &'static str,
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) body: String,
}

impl Message {
    /// The short name of the queue that it is routed to.
    pub(super) fn queue(&self) -> &'static str {
        if matches!(self.routing_key, "allocate" | "deallocate") { "orders" } else { "stock" }
    }

    pub(super) fn outgoing(&self, world: &World<'_>) -> Outgoing {
        let mut properties = properties(&self.kind, self.id.as_deref().unwrap_or_default());
        if self.id.is_none() {
            properties = lapin::BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(2)
                .with_type(self.kind.as_str().into());
        }
        world.upstream.raw(self.routing_key, properties, self.body.as_bytes())
    }
}

/// What may become of a message, apart from what operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// It is handled without any failed attempt.
    Handled,
    /// It may be rejected, as often as it is tried before the message it depends on.
    Rejected,
    /// It is never handled, and dead for this reason.
    Dead(&'static str),
}

/// What may become of a message with this id, type and body.
pub(super) fn expectation(id: Option<&str>, kind: &str, body: &[u8]) -> Expectation {
    let Some(command) = readable(body).filter(|command| is_complete(kind, command)) else {
        let known = matches!(kind, "allocate" | "deallocate" | "create_batch" | "change_batch_quantity");
        return Expectation::Dead(if known { "invalid_message" } else { "unknown_command" });
    };
    if id.is_none() {
        return Expectation::Dead("missing_message_id");
    }
    let begins = |field: &str, with: &str| command[field].as_str().is_some_and(|text| text.starts_with(with));
    match kind {
        "allocate" if begins("orderid", ANCHOR) && command["qty"] != json!(ANCHOR_QTY) => {
            Expectation::Dead("rejected")
        }
        "create_batch" if begins("ref", ANCHOR) && command["qty"] != json!(ANCHOR_BATCH) => {
            Expectation::Dead("rejected")
        }
        "allocate" | "deallocate" if begins("sku", LATE) => Expectation::Rejected,
        "change_batch_quantity" => Expectation::Rejected,
        _ => Expectation::Handled,
    }
}

/// A body that is a JSON object.
pub(super) fn readable(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().filter(Value::is_object)
}

fn is_complete(kind: &str, command: &Value) -> bool {
    let fields: &[&str] = match kind {
        "allocate" => &["orderid", "sku", "qty"],
        "deallocate" => &["orderid", "sku"],
        "create_batch" => &["ref", "sku", "qty"],
        "change_batch_quantity" => &["batchref", "qty"],
        _ => return false,
    };
    fields.iter().all(|field| !command[field].is_null()) && command["qty"] != json!(0)
}

/// Makes messages.
pub(super) struct Traffic {
    random: Random,
    next: u32,
    portion: u32,
    sent: Vec<Message>,
    /// Messages that belong to earlier ones, and the portion they are part of.
    later: Vec<(u32, Message)>,
    late_skus: Vec<String>,
}

impl Traffic {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            random: Random::seeded(seed),
            next: 0,
            portion: 0,
            sent: Vec::new(),
            later: Vec::new(),
            late_skus: Vec::new(),
        }
    }

    /// What must have been handled before the rest.
    pub(super) fn anchors(&mut self) -> Vec<Message> {
        let line = |number| allocate(&format!("{ANCHOR}{number}"), "LAMP", ANCHOR_QTY);
        let mut all: Vec<_> = (0..ANCHORS).map(line).collect();
        all.push(create_batch(&format!("{ANCHOR}batch"), "LAMP", ANCHOR_BATCH));
        all.into_iter().map(|command| self.message(command.kind, command.body.to_string())).collect()
    }

    /// New messages of so many kinds, and what earlier ones have coming.
    pub(super) fn portion(&mut self, count: usize) -> Vec<Message> {
        self.portion += 1;
        let (due, later) =
            std::mem::take(&mut self.later).into_iter().partition(|(portion, _)| *portion <= self.portion);
        self.later = later;
        let mut messages: Vec<_> = due.into_iter().map(|(_, message)| message).collect();
        for _ in 0..count {
            match self.random.below(100) {
                0..42 => self.pair(&mut messages),
                42..55 => self.batch(&mut messages),
                55..70 => self.too_early(&mut messages),
                70..77 => self.wrong_quantity(&mut messages),
                77..80 => self.other_batch(&mut messages),
                80..88 => self.unreadable(&mut messages),
                88..91 => self.unknown_type(&mut messages),
                91..94 => self.without_id(&mut messages),
                _ => self.duplicate(&mut messages),
            }
        }
        self.sent.extend_from_slice(&messages);
        messages
    }

    /// A line, which is cancelled at once, later, or not at all.
    fn pair(&mut self, messages: &mut Vec<Message>) {
        let (orderid, sku) = (format!("order-{}", self.number()), self.sku());
        let qty = 1 + self.random.below(3);
        self.line(messages, &orderid, sku, qty);
    }

    fn line(&mut self, messages: &mut Vec<Message>, orderid: &str, sku: &str, qty: u32) {
        let line = self.message("allocate", allocate(orderid, sku, qty).body.to_string());
        messages.push(line.clone());
        if self.random.percent(5) {
            messages.push(line);
        }
        let cancelled = self.message("deallocate", deallocate(orderid, sku).body.to_string());
        match self.random.below(100) {
            0..35 => messages.push(cancelled),
            35..80 => self.have_later(cancelled),
            _ => {}
        }
    }

    /// A batch, which may be changed once.
    fn batch(&mut self, messages: &mut Vec<Message>) {
        let (reference, sku) = (format!("batch-{}", self.number()), self.sku());
        let created = create_batch(&reference, sku, NEW_BATCH).body;
        let changed = change_batch_quantity(&reference, CHANGED_BATCH, None).body;
        messages.push(self.message("create_batch", created.to_string()));
        let changed = self.message("change_batch_quantity", changed.to_string());
        match self.random.below(100) {
            0..30 => messages.push(changed),
            30..70 => self.have_later(changed),
            _ => {}
        }
    }

    /// Something about a product or a batch that comes later, if ever.
    fn too_early(&mut self, messages: &mut Vec<Message>) {
        if self.random.percent(25) {
            let reference = format!("batch-{}", self.number());
            let changed = change_batch_quantity(&reference, CHANGED_BATCH, None).body;
            messages.push(self.message("change_batch_quantity", changed.to_string()));
            self.comes_perhaps(&reference, "DESK");
            return;
        }
        if self.late_skus.is_empty() || self.random.percent(40) {
            let sku = format!("{LATE}-{}", self.number());
            self.comes_perhaps(&format!("batch-{sku}"), &sku);
            self.late_skus.push(sku);
        }
        let chosen = self.index(self.late_skus.len());
        let (orderid, sku) = (format!("order-{}", self.number()), self.late_skus[chosen].clone());
        self.line(messages, &orderid, &sku, 1);
    }

    fn comes_perhaps(&mut self, reference: &str, sku: &str) {
        let created = create_batch(reference, sku, NEW_BATCH).body.to_string();
        let created = self.message("create_batch", created);
        if self.random.percent(75) {
            self.have_later(created);
        }
    }

    fn wrong_quantity(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("{ANCHOR}{}", self.random.below(ANCHORS));
        let qty = ANCHOR_QTY + 1 + self.random.below(9);
        messages.push(self.message("allocate", allocate(&orderid, "LAMP", qty).body.to_string()));
    }

    fn other_batch(&mut self, messages: &mut Vec<Message>) {
        let qty = ANCHOR_BATCH + 1 + i64::from(self.random.below(9));
        let other = create_batch(&format!("{ANCHOR}batch"), "LAMP", qty).body.to_string();
        messages.push(self.message("create_batch", other));
    }

    fn unreadable(&mut self, messages: &mut Vec<Message>) {
        let number = self.number();
        let body = match self.random.below(4) {
            0 => format!(r#"{{"orderid": "cut-off-{number}", "sku": "LA"#),
            1 => json!({ "orderid": format!("no-quantity-{number}"), "sku": "LAMP" }).to_string(),
            2 => json!({ "orderid": format!("nothing-{number}"), "sku": "LAMP", "qty": 0 }).to_string(),
            _ => format!("[{number}]"),
        };
        messages.push(self.message("allocate", body));
    }

    fn unknown_type(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("unknown-type-{}", self.number());
        let mut message = self.message("allocate", allocate(&orderid, "LAMP", 1).body.to_string());
        message.kind = "alocate".into();
        messages.push(message);
    }

    fn without_id(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("without-id-{}", self.number());
        let message = self.message("allocate", allocate(&orderid, "LAMP", 1).body.to_string());
        messages.push(Message { id: None, ..message });
    }

    /// Any message once more, under the same id.
    fn duplicate(&mut self, messages: &mut Vec<Message>) {
        let chosen = self.index(self.sent.len());
        messages.extend(self.sent.get(chosen).cloned());
    }

    fn message(&mut self, kind: &'static str, body: String) -> Message {
        Message { routing_key: kind, kind: kind.into(), id: Some(format!("m-{}", self.number())), body }
    }

    fn have_later(&mut self, message: Message) {
        let portion = self.portion + 1 + self.random.below(LATEST_PORTION);
        self.later.push((portion, message));
    }

    fn sku(&mut self) -> &'static str {
        SKUS[self.index(SKUS.len())]
    }

    fn index(&mut self, length: usize) -> usize {
        let below = self.random.below(u32::try_from(length).unwrap_or(u32::MAX));
        usize::try_from(below).unwrap_or_default()
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
