//! What each command of a unit of work changes, for a dry run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use crate::domain::{BatchRef, Command, Event, MessageKey, OrderId, Quantity, RecordedEvent, Sku};

use super::unit_of_work::UnitOfWork;

/// The place of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinePlace {
    /// `allocated` or `backordered`.
    pub status: &'static str,
    /// Its batch, if it is allocated.
    pub batchref: Option<String>,
}

/// A line that a command moves. Without a place it does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names")]
pub struct LineChange {
    pub orderid: String,
    pub sku: String,
    pub qty: u32,
    pub from: Option<LinePlace>,
    pub to: Option<LinePlace>,
}

/// A batch that a command changes: its quantities before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names")]
pub struct BatchChange {
    pub batchref: String,
    pub allocated: [u32; 2],
    pub purchased: [u32; 2],
}

/// An event that would be published.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the contract's own names")]
pub struct EventToPublish {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub sku: String,
    pub sequence: i64,
    pub body: Value,
}

/// Everything that a command changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Effects {
    pub(super) lines: Vec<LineChange>,
    pub(super) batches: Vec<BatchChange>,
    pub(super) events: Vec<EventToPublish>,
    pub(super) took: Duration,
}

/// The effects of the commands that were handled.
#[derive(Debug, Default)]
pub(super) struct EffectLog {
    by_message: Mutex<HashMap<MessageKey, Effects>>,
}

impl EffectLog {
    /// Notes what a handled command has changed; only the last time counts.
    pub(super) fn add(
        &self,
        key: &MessageKey,
        command: &Command,
        before: &Before,
        took: Duration,
        uow: &mut UnitOfWork,
    ) {
        let events = uow.take_observed();
        let effects = Effects {
            lines: lines(command, before, &events),
            batches: batches(command, before, &events, uow),
            events: events.iter().filter_map(to_publish).collect(),
            took,
        };
        self.by_message.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), effects);
    }

    /// The effects of a command.
    pub(super) fn of(&self, key: &MessageKey) -> Effects {
        let effects = self.by_message.lock().unwrap_or_else(PoisonError::into_inner);
        effects.get(key).cloned().unwrap_or_default()
    }
}

/// What is known before a command is handled, and what its events do not contain.
pub(super) struct Before {
    /// The purchased quantity of the batch that the command names, if it exists.
    purchased: Option<u32>,
    /// The quantity of the line that the command names, if it exists.
    quantity: Option<Quantity>,
}

impl Before {
    /// Begins to observe a command.
    pub(super) fn of(command: &Command, uow: &mut UnitOfWork) -> Self {
        uow.observe();
        let purchased = named_batch(command).and_then(|reference| quantities(uow, reference));
        let quantity = named_line(command).and_then(|(orderid, sku)| {
            let line = uow.products.get(sku).and_then(|product| product.line(orderid));
            line.map(|line| line.quantity)
        });
        Self { purchased: purchased.map(|(_, purchased)| purchased), quantity }
    }
}

fn named_batch(command: &Command) -> Option<&BatchRef> {
    match command {
        Command::CreateBatch(command) => Some(&command.reference),
        Command::ChangeBatchQuantity(command) => Some(&command.reference),
        Command::Allocate(_) | Command::Deallocate(_) => None,
    }
}

fn named_line(command: &Command) -> Option<(&OrderId, &Sku)> {
    match command {
        Command::Allocate(command) => Some((&command.orderid, &command.sku)),
        Command::Deallocate(command) => Some((&command.orderid, &command.sku)),
        Command::CreateBatch(_) | Command::ChangeBatchQuantity(_) => None,
    }
}

/// The allocated and the purchased quantity of a loaded batch.
fn quantities(uow: &UnitOfWork, reference: &BatchRef) -> Option<(u32, u32)> {
    let batch = uow.products.values().find_map(|product| product.batch(reference))?;
    Some((batch.allocated(), batch.purchased()))
}

fn to_publish(recorded: &RecordedEvent) -> Option<EventToPublish> {
    Some(EventToPublish {
        kind: recorded.event.public_name()?,
        sku: recorded.event.sku().to_string(),
        sequence: recorded.sequence?,
        body: serde_json::to_value(&recorded.event).unwrap_or_default(),
    })
}

fn allocated(batchref: &BatchRef) -> LinePlace {
    LinePlace { status: "allocated", batchref: Some(batchref.to_string()) }
}

fn backordered() -> LinePlace {
    LinePlace { status: "backordered", batchref: None }
}

/// The lines that are in another place afterwards, in the order of their first events. The first event of a line says where it
/// was: only the line that an `allocate` names is new, any other one that is allocated was a backorder.
fn lines(command: &Command, before: &Before, events: &[RecordedEvent]) -> Vec<LineChange> {
    let mut lines: Vec<LineChange> = Vec::new();
    for RecordedEvent { event, .. } in events {
        let (orderid, sku, qty, from, to) = match event {
            Event::Allocated { orderid, sku, qty, batchref } => {
                let is_new =
                    matches!(command, Command::Allocate(_)) && named_line(command) == Some((orderid, sku));
                (orderid, sku, Some(*qty), (!is_new).then(backordered), Some(allocated(batchref)))
            }
            Event::OutOfStock { orderid, sku, qty } => (orderid, sku, Some(*qty), None, Some(backordered())),
            Event::Deallocated { orderid, sku, qty, batchref } => {
                (orderid, sku, Some(*qty), Some(allocated(batchref)), None)
            }
            Event::BackorderCancelled { orderid, sku } => {
                (orderid, sku, before.quantity, Some(backordered()), None)
            }
        };
        let is_known = |line: &&mut LineChange| line.orderid == orderid.as_str() && line.sku == sku.as_str();
        if let Some(line) = lines.iter_mut().find(is_known) {
            line.to = to;
        } else {
            let (orderid, sku) = (orderid.to_string(), sku.to_string());
            lines.push(LineChange { orderid, sku, qty: qty.map_or(0, Quantity::get), from, to });
        }
    }
    lines.retain(|line| line.from != line.to);
    lines
}

/// The batches that have other quantities afterwards, by reference. The quantities before follow from those after and from the
/// events; only the command itself changes what was purchased.
fn batches(
    command: &Command,
    before: &Before,
    events: &[RecordedEvent],
    uow: &UnitOfWork,
) -> Vec<BatchChange> {
    let named = named_batch(command);
    let mut allocated_now: BTreeMap<&BatchRef, i64> = named.map(|named| (named, 0)).into_iter().collect();
    for RecordedEvent { event, .. } in events {
        match event {
            Event::Allocated { qty, batchref, .. } => {
                *allocated_now.entry(batchref).or_default() += i64::from(qty.get());
            }
            Event::Deallocated { qty, batchref, .. } => {
                *allocated_now.entry(batchref).or_default() -= i64::from(qty.get());
            }
            Event::OutOfStock { .. } | Event::BackorderCancelled { .. } => {}
        }
    }
    let change = |(reference, difference): (&BatchRef, i64)| {
        let (allocated, purchased) = quantities(uow, reference)?;
        let allocated_before = u32::try_from(i64::from(allocated) - difference).unwrap_or_default();
        let is_named = named == Some(reference);
        let purchased_before = if is_named { before.purchased } else { Some(purchased) };
        let is_changed = difference != 0 || purchased_before != Some(purchased);
        is_changed.then(|| BatchChange {
            batchref: reference.to_string(),
            allocated: [allocated_before, allocated],
            purchased: [purchased_before.unwrap_or_default(), purchased],
        })
    };
    allocated_now.into_iter().filter_map(change).collect()
}
