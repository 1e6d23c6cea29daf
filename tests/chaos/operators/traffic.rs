//! Messages from a seed: commands that succeed, commands that fail temporarily or permanently, and duplicates.
//!
//! Every order, batch and late product has a unique name, so that the effect of a message is visible in tables and
//! events.

use serde_json::{Value, json};

use crate::{
    command::{allocate, change_batch_quantity, create_batch, deallocate},
    command_load::SKUS,
    command_source::{OutgoingMessage, properties},
    random::Random,
    test_system::TestSystem,
};

/// Prefix of products that exist only after a batch of theirs was created.
const LATE_SKU: &str = "LATE";
/// Lines and a batch that exist from the start; the same with different content is always rejected.
const INITIAL: &str = "initial-";
const INITIAL_LINES: u32 = 8;
const INITIAL_QTY: u32 = 5;
const INITIAL_BATCH_QTY: i64 = 1000;
/// Quantity of a new batch, and after its only change.
const BATCH_QTY: i64 = 60;
const CHANGED_BATCH_QTY: i64 = 55;
/// A scheduled message is sent within this many portions.
const MAX_PORTIONS_LATER: u32 = 6;

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

    pub(super) fn outgoing_message(&self, system: &TestSystem<'_>) -> OutgoingMessage {
        let mut properties = properties(&self.kind, self.id.as_deref().unwrap_or_default());
        if self.id.is_none() {
            properties = lapin::BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(2)
                .with_type(self.kind.as_str().into());
        }
        system.command_source.message(self.routing_key, properties, self.body.as_bytes())
    }
}

/// The possible results of a message without operator actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// It is handled without a failed attempt.
    Handled,
    /// It may be rejected until the message it depends on is handled.
    Rejected,
    /// It is never handled, and dead-lettered with this reason.
    Dead(&'static str),
}

/// The possible results of a message with this id, type and body.
pub(super) fn expectation(id: Option<&str>, kind: &str, body: &[u8]) -> Expectation {
    let Some(command) = parse_object(body).filter(|command| is_complete(kind, command)) else {
        let known = matches!(kind, "allocate" | "deallocate" | "create_batch" | "change_batch_quantity");
        return Expectation::Dead(if known { "invalid_message" } else { "unknown_command" });
    };
    if id.is_none() {
        return Expectation::Dead("missing_message_id");
    }
    let has_prefix =
        |field: &str, with: &str| command[field].as_str().is_some_and(|text| text.starts_with(with));
    match kind {
        "allocate" if has_prefix("orderid", INITIAL) && command["qty"] != json!(INITIAL_QTY) => {
            Expectation::Dead("rejected")
        }
        "create_batch" if has_prefix("ref", INITIAL) && command["qty"] != json!(INITIAL_BATCH_QTY) => {
            Expectation::Dead("rejected")
        }
        "allocate" | "deallocate" if has_prefix("sku", LATE_SKU) => Expectation::Rejected,
        "change_batch_quantity" => Expectation::Rejected,
        _ => Expectation::Handled,
    }
}

/// The body, if it is a JSON object.
pub(super) fn parse_object(body: &[u8]) -> Option<Value> {
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
    /// Messages for later portions, with the number of the portion.
    scheduled: Vec<(u32, Message)>,
    late_skus: Vec<String>,
}

impl Traffic {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            random: Random::seeded(seed),
            next: 0,
            portion: 0,
            sent: Vec::new(),
            scheduled: Vec::new(),
            late_skus: Vec::new(),
        }
    }

    /// Messages that must be handled before the rest.
    pub(super) fn initial_messages(&mut self) -> Vec<Message> {
        let line = |number| allocate(&format!("{INITIAL}{number}"), "LAMP", INITIAL_QTY);
        let mut all: Vec<_> = (0..INITIAL_LINES).map(line).collect();
        all.push(create_batch(&format!("{INITIAL}batch"), "LAMP", INITIAL_BATCH_QTY));
        all.into_iter().map(|command| self.new_message(command.kind, command.body.to_string())).collect()
    }

    /// The messages due now, and `count` groups of new ones.
    pub(super) fn portion(&mut self, count: usize) -> Vec<Message> {
        self.portion += 1;
        let (due, scheduled) = std::mem::take(&mut self.scheduled)
            .into_iter()
            .partition(|(portion, _)| *portion <= self.portion);
        self.scheduled = scheduled;
        let mut messages: Vec<_> = due.into_iter().map(|(_, message)| message).collect();
        for _ in 0..count {
            match self.random.below(100) {
                0..42 => self.allocate_and_deallocate(&mut messages),
                42..55 => self.create_and_change_batch(&mut messages),
                55..70 => self.before_dependency(&mut messages),
                70..77 => self.different_quantity(&mut messages),
                77..80 => self.different_batch(&mut messages),
                80..88 => self.malformed(&mut messages),
                88..91 => self.unknown_type(&mut messages),
                91..94 => self.without_id(&mut messages),
                _ => self.duplicate(&mut messages),
            }
        }
        self.sent.extend_from_slice(&messages);
        messages
    }

    /// A line, which is deallocated at once, later, or not at all.
    fn allocate_and_deallocate(&mut self, messages: &mut Vec<Message>) {
        let (orderid, sku) = (format!("order-{}", self.next_number()), self.sku());
        let qty = 1 + self.random.below(3);
        self.allocate_line(messages, &orderid, sku, qty);
    }

    fn allocate_line(&mut self, messages: &mut Vec<Message>, orderid: &str, sku: &str, qty: u32) {
        let line = self.new_message("allocate", allocate(orderid, sku, qty).body.to_string());
        messages.push(line.clone());
        if self.random.percent(5) {
            messages.push(line);
        }
        let deallocated = self.new_message("deallocate", deallocate(orderid, sku).body.to_string());
        match self.random.below(100) {
            0..35 => messages.push(deallocated),
            35..80 => self.schedule(deallocated),
            _ => {}
        }
    }

    /// A batch, which may be changed once.
    fn create_and_change_batch(&mut self, messages: &mut Vec<Message>) {
        let (reference, sku) = (format!("batch-{}", self.next_number()), self.sku());
        let created = create_batch(&reference, sku, BATCH_QTY).body;
        let changed = change_batch_quantity(&reference, CHANGED_BATCH_QTY, None).body;
        messages.push(self.new_message("create_batch", created.to_string()));
        let changed = self.new_message("change_batch_quantity", changed.to_string());
        match self.random.below(100) {
            0..30 => messages.push(changed),
            30..70 => self.schedule(changed),
            _ => {}
        }
    }

    /// A command that needs a product or a batch that is created later, or never.
    fn before_dependency(&mut self, messages: &mut Vec<Message>) {
        if self.random.percent(25) {
            let reference = format!("batch-{}", self.next_number());
            let changed = change_batch_quantity(&reference, CHANGED_BATCH_QTY, None).body;
            messages.push(self.new_message("change_batch_quantity", changed.to_string()));
            self.maybe_schedule_batch(&reference, "DESK");
            return;
        }
        if self.late_skus.is_empty() || self.random.percent(40) {
            let sku = format!("{LATE_SKU}-{}", self.next_number());
            self.maybe_schedule_batch(&format!("batch-{sku}"), &sku);
            self.late_skus.push(sku);
        }
        let index = self.index(self.late_skus.len());
        let (orderid, sku) = (format!("order-{}", self.next_number()), self.late_skus[index].clone());
        self.allocate_line(messages, &orderid, &sku, 1);
    }

    fn maybe_schedule_batch(&mut self, reference: &str, sku: &str) {
        let created = create_batch(reference, sku, BATCH_QTY).body.to_string();
        let created = self.new_message("create_batch", created);
        if self.random.percent(75) {
            self.schedule(created);
        }
    }

    fn different_quantity(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("{INITIAL}{}", self.random.below(INITIAL_LINES));
        let qty = INITIAL_QTY + 1 + self.random.below(9);
        messages.push(self.new_message("allocate", allocate(&orderid, "LAMP", qty).body.to_string()));
    }

    fn different_batch(&mut self, messages: &mut Vec<Message>) {
        let qty = INITIAL_BATCH_QTY + 1 + i64::from(self.random.below(9));
        let different = create_batch(&format!("{INITIAL}batch"), "LAMP", qty).body.to_string();
        messages.push(self.new_message("create_batch", different));
    }

    fn malformed(&mut self, messages: &mut Vec<Message>) {
        let number = self.next_number();
        let body = match self.random.below(4) {
            0 => format!(r#"{{"orderid": "cut-off-{number}", "sku": "LA"#),
            1 => json!({ "orderid": format!("no-quantity-{number}"), "sku": "LAMP" }).to_string(),
            2 => json!({ "orderid": format!("nothing-{number}"), "sku": "LAMP", "qty": 0 }).to_string(),
            _ => format!("[{number}]"),
        };
        messages.push(self.new_message("allocate", body));
    }

    fn unknown_type(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("unknown-type-{}", self.next_number());
        let mut message = self.new_message("allocate", allocate(&orderid, "LAMP", 1).body.to_string());
        message.kind = "alocate".into();
        messages.push(message);
    }

    fn without_id(&mut self, messages: &mut Vec<Message>) {
        let orderid = format!("without-id-{}", self.next_number());
        let message = self.new_message("allocate", allocate(&orderid, "LAMP", 1).body.to_string());
        messages.push(Message { id: None, ..message });
    }

    /// An earlier message again, under the same id.
    fn duplicate(&mut self, messages: &mut Vec<Message>) {
        let index = self.index(self.sent.len());
        messages.extend(self.sent.get(index).cloned());
    }

    fn new_message(&mut self, kind: &'static str, body: String) -> Message {
        Message { routing_key: kind, kind: kind.into(), id: Some(format!("m-{}", self.next_number())), body }
    }

    fn schedule(&mut self, message: Message) {
        let portion = self.portion + 1 + self.random.below(MAX_PORTIONS_LATER);
        self.scheduled.push((portion, message));
    }

    fn sku(&mut self) -> &'static str {
        SKUS[self.index(SKUS.len())]
    }

    fn index(&mut self, length: usize) -> usize {
        let below = self.random.below(u32::try_from(length).unwrap_or(u32::MAX));
        usize::try_from(below).unwrap_or_default()
    }

    fn next_number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
