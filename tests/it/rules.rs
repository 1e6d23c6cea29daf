//! Random commands against a model so simple that it can be read: it keeps everything and searches all of it.
//!
//! The commands go through the message bus in units of work of random size, over a store of which the products
//! learn only parts; lines, batches, events and read model must come out as in the model.

use std::{collections::BTreeMap, sync::Arc};

use allocation::{
    adapters::memory::MemoryStore,
    domain::Sku,
    ports::{
        queue::QueueName,
        store::{Store, ViewState},
    },
    service::{
        incoming::Incoming,
        message_bus::{Fate, MessageBus},
    },
};
use proptest::{prelude::*, strategy::ValueTree as _};
use serde_json::json;

use crate::harness::{World, bus, command};

const SKUS: [&str; 2] = ["LAMP", "VASE"];

#[derive(Clone, Debug)]
enum Order {
    Create { batch: u8, sku: usize, qty: u32, eta: Option<u8> },
    Allocate { order: u8, sku: usize, qty: u32 },
    Deallocate { order: u8, sku: usize },
    Change { batch: u8, qty: u32, revision: Option<i64> },
}

impl Order {
    fn message(&self, number: usize) -> Incoming {
        let (kind, body) = match self {
            Self::Create { batch, sku, qty, eta } => {
                let eta = eta.map(|day| format!("2027-01-{day:02}"));
                (
                    "create_batch",
                    json!({ "ref": format!("b{batch}"), "sku": SKUS[*sku], "qty": qty, "eta": eta }),
                )
            }
            Self::Allocate { order, sku, qty } => {
                ("allocate", json!({ "orderid": format!("o{order}"), "sku": SKUS[*sku], "qty": qty }))
            }
            Self::Deallocate { order, sku } => {
                ("deallocate", json!({ "orderid": format!("o{order}"), "sku": SKUS[*sku] }))
            }
            Self::Change { batch, qty, revision } => (
                "change_batch_quantity",
                json!({ "batchref": format!("b{batch}"), "qty": qty, "revision": revision }),
            ),
        };
        command(&format!("m{number}"), kind, &body)
    }
}

fn orders() -> impl Strategy<Value = Order> {
    let (batch, order, sku) = (0..6u8, 0..12u8, 0..SKUS.len());
    prop_oneof![
        2 => (batch.clone(), sku.clone(), 0..20u32, proptest::option::of(1..4u8))
            .prop_map(|(batch, sku, qty, eta)| Order::Create { batch, sku, qty, eta }),
        6 => (order.clone(), sku.clone(), 1..9u32).prop_map(|(order, sku, qty)| Order::Allocate { order, sku, qty }),
        2 => (order, sku).prop_map(|(order, sku)| Order::Deallocate { order, sku }),
        3 => (batch, 0..25u32, proptest::option::of(1..9i64))
            .prop_map(|(batch, qty, revision)| Order::Change { batch, qty, revision }),
    ]
}

/// The rules of the contract, done the slow way.
#[derive(Default)]
struct Model {
    batches: BTreeMap<u8, ModelBatch>,
    /// In the order in which they were first asked for.
    lines: Vec<ModelLine>,
    events: BTreeMap<usize, Vec<String>>,
}

#[derive(Clone, Copy)]
struct ModelBatch {
    sku: usize,
    ordered: u32,
    purchased: u32,
    eta: Option<u8>,
    revision: Option<i64>,
}

#[derive(Clone)]
struct ModelLine {
    order: u8,
    sku: usize,
    qty: u32,
    batch: Option<u8>,
}

impl Model {
    fn available(&self, batch: u8) -> u32 {
        let allocated: u32 =
            self.lines.iter().filter(|line| line.batch == Some(batch)).map(|line| line.qty).sum();
        self.batches[&batch].purchased - allocated
    }

    fn place(&mut self, position: usize) -> bool {
        let ModelLine { order, sku, qty, .. } = self.lines[position].clone();
        let fits = |batch: &&u8| self.batches[*batch].sku == sku && self.available(**batch) >= qty;
        let best =
            self.batches.keys().filter(fits).min_by_key(|batch| (self.batches[*batch].eta, **batch)).copied();
        let Some(best) = best else { return false };
        self.lines[position].batch = Some(best);
        self.tell(sku, format!("allocated o{order} {qty} b{best}"));
        true
    }

    fn offer(&mut self, sku: usize) {
        for position in 0..self.lines.len() {
            if self.lines[position].sku == sku && self.lines[position].batch.is_none() {
                self.place(position);
            }
        }
    }

    fn tell(&mut self, sku: usize, event: String) {
        self.events.entry(sku).or_default().push(event);
    }

    fn known(&self, sku: usize) -> bool {
        self.batches.values().any(|batch| batch.sku == sku)
    }

    fn handle(&mut self, order: &Order) -> bool {
        match *order {
            Order::Create { batch, sku, qty, eta } => self.create(batch, sku, qty, eta),
            Order::Allocate { order, sku, qty } => self.allocate(order, sku, qty),
            Order::Deallocate { order, sku } => self.deallocate(order, sku),
            Order::Change { batch, qty, revision } => self.change(batch, qty, revision),
        }
    }

    fn create(&mut self, batch: u8, sku: usize, qty: u32, eta: Option<u8>) -> bool {
        if let Some(known) = self.batches.get(&batch) {
            return known.sku == sku && known.ordered == qty && known.eta == eta;
        }
        self.batches.insert(batch, ModelBatch { sku, ordered: qty, purchased: qty, eta, revision: None });
        self.offer(sku);
        true
    }

    fn allocate(&mut self, order: u8, sku: usize, qty: u32) -> bool {
        if !self.known(sku) {
            return false;
        }
        if let Some(line) = self.lines.iter().find(|line| line.order == order && line.sku == sku) {
            return line.qty == qty;
        }
        self.lines.push(ModelLine { order, sku, qty, batch: None });
        if !self.place(self.lines.len() - 1) {
            self.tell(sku, format!("out_of_stock o{order} {qty}"));
        }
        true
    }

    fn deallocate(&mut self, order: u8, sku: usize) -> bool {
        if !self.known(sku) {
            return false;
        }
        if let Some(position) = self.lines.iter().position(|line| line.order == order && line.sku == sku) {
            let line = self.lines.remove(position);
            if let Some(batch) = line.batch {
                self.tell(sku, format!("deallocated o{order} {} b{batch}", line.qty));
                self.offer(sku);
            }
        }
        true
    }

    fn change(&mut self, batch: u8, qty: u32, revision: Option<i64>) -> bool {
        let Some(known) = self.batches.get(&batch).copied() else { return false };
        if matches!((revision, known.revision), (Some(new), Some(last)) if new <= last) {
            return true;
        }
        let mut left = known.purchased - self.available(batch);
        let mut displaced = Vec::new();
        for position in (0..self.lines.len()).rev() {
            if left > qty && self.lines[position].batch == Some(batch) {
                let ModelLine { order, qty, .. } = self.lines[position];
                self.lines[position].batch = None;
                self.tell(known.sku, format!("deallocated o{order} {qty} b{batch}"));
                displaced.push(position);
                left -= qty;
            }
        }
        let revision = revision.or(known.revision);
        self.batches.insert(batch, ModelBatch { purchased: qty, revision, ..known });
        self.offer(known.sku);
        for position in displaced {
            if let ModelLine { order, qty, batch: None, .. } = self.lines[position] {
                self.tell(known.sku, format!("out_of_stock o{order} {qty}"));
            }
        }
        true
    }

    fn view(&self) -> Vec<(String, &'static str, u32, Option<String>)> {
        let row = |line: &ModelLine| {
            (
                format!("o{}", line.order),
                SKUS[line.sku],
                line.qty,
                line.batch.map(|batch| format!("b{batch}")),
            )
        };
        let mut rows: Vec<_> = self.lines.iter().map(row).collect();
        rows.sort();
        rows
    }
}

/// Units of work of random size; the order stays.
fn units() -> impl Strategy<Value = Vec<Vec<Order>>> {
    proptest::collection::vec(proptest::collection::vec(orders(), 1..12), 1..12)
}

async fn play(bus: &MessageBus, units: &[Vec<Order>], model: &mut Model) {
    let mut number = 0;
    for unit in units {
        let messages: Vec<_> = unit
            .iter()
            .map(|order| {
                number += 1;
                order.message(number)
            })
            .collect();
        let fates = bus.handle(QueueName::Orders, &messages).await.expect("the store is there");
        for (order, fate) in unit.iter().zip(fates) {
            assert_eq!(model.handle(order), fate == Fate::Handled, "{order:?}: {fate:?}");
        }
    }
}

fn told(name: &str, body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).expect("events are JSON");
    let text = |field: &str| body[field].as_str().map(|text| format!(" {text}")).unwrap_or_default();
    format!("{name}{} {}{}", text("orderid"), body["qty"], text("batchref"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_come_out_as_in_a_naive_model(units in units()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::default();
            let mut model = Model::default();
            play(&bus(Arc::new(store.clone()) as Arc<dyn Store>), &units, &mut model).await;
            let kept = store.kept().await;
            for (sku, name) in SKUS.iter().enumerate() {
                let events: Vec<_> = kept.outbox.iter().filter(|row| row.sku == *name).collect();
                let sequences: Vec<_> = events.iter().map(|row| row.sequence).collect();
                assert_eq!(sequences, (1..).take(events.len()).collect::<Vec<i64>>());
                let told: Vec<_> = events.iter().map(|row| told(&row.name, &row.body)).collect();
                assert_eq!(&told, model.events.entry(sku).or_default());
                if let Some(product) = kept.product(&Sku::new(name).unwrap()) {
                    for batch in product.batches() {
                        let number = batch.reference.as_str()[1..].parse().unwrap();
                        assert_eq!(batch.available(), model.available(number));
                    }
                }
            }
            let view = kept.view.iter().map(|((orderid, sku), state)| match state {
                ViewState::Allocated(qty, batch) => (orderid.to_string(), sku.as_str(), qty.get(), Some(batch.to_string())),
                ViewState::Backordered(qty) => (orderid.to_string(), sku.as_str(), qty.get(), None),
                ViewState::Gone => unreachable!("rows of lines that are gone are removed"),
            });
            assert_eq!(view.collect::<Vec<_>>(), model.view());
        });
    }
}

/// The same on real tables: fewer cases, since each has a database of its own.
#[tokio::test]
async fn random_commands_come_out_on_postgres_as_in_a_naive_model() {
    let world = World::new("rules").await;
    for _ in 0..12 {
        let mut runner = proptest::test_runner::TestRunner::default();
        let units = units().new_tree(&mut runner).unwrap().current();
        sqlx::raw_sql("truncate products, batches, order_lines, inbox, outbox, allocations_view, failed_messages cascade")
            .execute(&world.pool)
            .await
            .unwrap();
        let mut model = Model::default();
        play(&bus(world.store()), &units, &mut model).await;
        let events: Vec<(String, i64, String, String)> =
            sqlx::query_as("select sku, sequence, name, body from outbox order by id")
                .fetch_all(&world.pool)
                .await
                .unwrap();
        for (sku, name) in SKUS.iter().enumerate() {
            let of_sku: Vec<_> = events.iter().filter(|(of, ..)| of == name).collect();
            let sequences: Vec<_> = of_sku.iter().map(|(_, sequence, ..)| *sequence).collect();
            assert_eq!(sequences, (1..).take(of_sku.len()).collect::<Vec<i64>>());
            let told: Vec<_> = of_sku.iter().map(|(_, _, name, body)| told(name, body)).collect();
            assert_eq!(&told, model.events.entry(sku).or_default());
        }
        let view: Vec<(String, String, i32, Option<String>)> =
            sqlx::query_as("select orderid, sku, qty, batchref from allocations_view order by orderid, sku")
                .fetch_all(&world.pool)
                .await
                .unwrap();
        let expected: Vec<_> = model
            .view()
            .into_iter()
            .map(|(orderid, sku, qty, batch)| (orderid, sku.to_owned(), qty.cast_signed(), batch))
            .collect();
        let mut view = view;
        view.sort();
        assert_eq!(view, expected);
        world.assert_consistent().await;
    }
    sqlx::raw_sql("truncate outbox, failed_messages cascade").execute(&world.pool).await.unwrap();
    world.close().await;
}
