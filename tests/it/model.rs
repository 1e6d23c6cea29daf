//! Random commands, compared with a naive model that keeps everything in lists.
//!
//! The message bus handles the commands in units of work of random size and loads only the parts of a product that it needs.
//! Lines, batches, events and read model must equal those of the model.

mod reference;

use std::{ops::Range, sync::Arc};

use allocation::{
    adapters::memory::MemoryStore,
    domain::Sku,
    ports::{
        queue::QueueName,
        store::{ReadModelState, Store},
    },
    service::{message_bus::MessageBus, outcome::CommandOutcome, received::ReceivedMessage},
};
use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};
use serde_json::json;

use crate::harness::{HandleAll as _, TestSystem, bus, command};

use reference::Model;

const SKUS: [&str; 2] = ["LAMP", "VASE"];

#[derive(Clone, Debug)]
enum ModelCommand {
    Create { batch: u8, sku: usize, qty: u32, eta: Option<u8> },
    Allocate { order: u8, sku: usize, qty: u32 },
    Deallocate { order: u8, sku: usize },
    Change { batch: u8, qty: u32, revision: Option<i64> },
}

impl ModelCommand {
    fn message(&self, number: usize) -> ReceivedMessage {
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
        let mut received = command(&format!("m{number}"), kind, &body);
        // A failure is reported and not recorded, so that later commands do not wait for its retry.
        received.awaited = true;
        received
    }
}

/// The batches that [`full_shelf`] creates.
const SHELF: Range<u8> = 60..100;

fn commands() -> impl Strategy<Value = ModelCommand> {
    let (batch, order, sku) = (0..6u8, 0..12u8, 0..SKUS.len());
    prop_oneof![
        2 => (batch.clone(), sku.clone(), 0..20u32, proptest::option::of(1..4u8))
            .prop_map(|(batch, sku, qty, eta)| ModelCommand::Create { batch, sku, qty, eta }),
        6 => (order.clone(), sku.clone(), 1..9u32).prop_map(|(order, sku, qty)| ModelCommand::Allocate { order, sku, qty }),
        2 => (order, sku).prop_map(|(order, sku)| ModelCommand::Deallocate { order, sku }),
        3 => (batch, 0..25u32, proptest::option::of(1..9i64))
            .prop_map(|(batch, qty, revision)| ModelCommand::Change { batch, qty, revision }),
    ]
}

/// Commands in units of work of random size.
fn units() -> impl Strategy<Value = Vec<Vec<ModelCommand>>> {
    proptest::collection::vec(proptest::collection::vec(commands(), 1..12), 1..12)
}

/// More batches of one SKU than a product is loaded with, and few units in each.
fn full_shelf() -> Vec<ModelCommand> {
    let create = |batch: u8| {
        let eta = Some(batch % 4).filter(|day| *day > 0);
        ModelCommand::Create { batch, sku: 0, qty: u32::from(batch) * 3 % 7, eta }
    };
    SHELF.map(create).collect()
}

/// Commands for a product with very many batches, in units of work of random size.
fn units_on_a_full_shelf() -> impl Strategy<Value = Vec<Vec<ModelCommand>>> {
    let commands = prop_oneof![
        3 => commands(),
        2 => (12..60u8, 1..9u32).prop_map(|(order, qty)| ModelCommand::Allocate { order, sku: 0, qty }),
        1 => (SHELF, 0..12u32).prop_map(|(batch, qty)| ModelCommand::Change { batch, qty, revision: None }),
    ];
    proptest::collection::vec(proptest::collection::vec(commands, 1..20), 1..12).prop_map(|mut units| {
        units.insert(0, full_shelf());
        units
    })
}

async fn handle_and_compare(bus: &MessageBus, units: &[Vec<ModelCommand>], model: &mut Model) {
    let mut number = 0;
    for unit in units {
        let mut messages: Vec<_> = unit
            .iter()
            .map(|command| {
                number += 1;
                command.message(number)
            })
            .collect();
        let outcomes =
            bus.handle_all(QueueName::Orders, &mut messages).await.expect("the store is available");
        for (command, outcome) in unit.iter().zip(outcomes) {
            assert_eq!(
                model.handle(command),
                matches!(outcome, CommandOutcome::Handled),
                "{command:?}: {outcome:?}"
            );
        }
    }
}

fn summary(name: &str, body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).expect("events are JSON");
    let text = |field: &str| body[field].as_str().map(|text| format!(" {text}")).unwrap_or_default();
    format!("{name}{} {}{}", text("orderid"), body["qty"], text("batchref"))
}

/// The seed of the random cases, so that every run has the same ones. `PROPTEST_RNG_SEED` selects others. With this seed the
/// few cases on PostgreSQL detect what docs/test-strength.md lists for them.
const SEED: u64 = 3;

/// Checks random cases. A failure shows the smallest failing case and the seed.
fn for_random_units(
    units: &impl Strategy<Value = Vec<Vec<ModelCommand>>>,
    cases: u32,
    max_shrink_iters: u32,
    holds: impl Fn(&[Vec<ModelCommand>]),
) {
    let defaults = ProptestConfig::default();
    let seed = match defaults.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SEED,
    };
    let rng_seed = RngSeed::Fixed(seed);
    let failure_persistence = None;
    let config = ProptestConfig { cases, max_shrink_iters, rng_seed, failure_persistence, ..defaults };
    let outcome = TestRunner::new(config).run(units, |units| {
        holds(&units);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("PROPTEST_RNG_SEED={seed}: {failure}"));
}

#[test]
fn random_commands_have_the_results_of_a_naive_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for_random_units(&units(), 600, 10_000, |units| runtime.block_on(compare_in_memory(units)));
    for_random_units(&units_on_a_full_shelf(), 200, 2_000, |units| {
        runtime.block_on(compare_in_memory(units));
    });
}

async fn compare_in_memory(units: &[Vec<ModelCommand>]) {
    let store = MemoryStore::default();
    let mut model = Model::default();
    handle_and_compare(&bus(Arc::new(store.clone()) as Arc<dyn Store>), units, &mut model).await;
    let state = store.state().await;
    for (sku, name) in SKUS.iter().enumerate() {
        let events: Vec<_> = state.outbox.iter().filter(|row| row.sku == *name).collect();
        let sequences: Vec<_> = events.iter().map(|row| row.sequence).collect();
        assert_eq!(sequences, (1..).take(events.len()).collect::<Vec<i64>>());
        let published: Vec<_> = events.iter().map(|row| summary(&row.name, &row.body)).collect();
        assert_eq!(&published, model.events.entry(sku).or_default());
        if let Some(product) = state.product(&Sku::new(name).unwrap()) {
            for batch in product.batches().iter() {
                let number = batch.reference.as_str()[1..].parse().unwrap();
                assert_eq!(batch.available(), model.available(number));
            }
        }
    }
    let view = state.view.iter().map(|((orderid, sku), state)| match state {
        ReadModelState::Allocated(qty, batch) => {
            (orderid.to_string(), sku.as_str(), qty.get(), Some(batch.to_string()))
        }
        ReadModelState::Backordered(qty) => (orderid.to_string(), sku.as_str(), qty.get(), None),
        ReadModelState::Removed => unreachable!("the rows of removed lines are removed"),
    });
    assert_eq!(view.collect::<Vec<_>>(), model.view());
}

/// Fewer cases than in memory, because each writes to the disk.
#[test]
fn random_commands_on_postgres_have_the_results_of_a_naive_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let system =
        runtime.block_on(TestSystem::new("random_commands_on_postgres_have_the_results_of_a_naive_model"));
    let compare = |units: &[Vec<ModelCommand>]| runtime.block_on(compare_on_postgres(&system, units));
    for_random_units(&units(), 24, 200, compare);
    for_random_units(&units_on_a_full_shelf(), 8, 50, compare);
    runtime.block_on(async {
        truncate(&system).await;
        system.close().await;
    });
}

async fn truncate(system: &TestSystem) {
    sqlx::raw_sql(
        "truncate products, batches, order_lines, inbox, outbox, allocations_view, failed_messages cascade",
    )
    .execute(&system.pool)
    .await
    .unwrap();
}

async fn compare_on_postgres(system: &TestSystem, units: &[Vec<ModelCommand>]) {
    truncate(system).await;
    let mut model = Model::default();
    handle_and_compare(&bus(system.store()), units, &mut model).await;
    let events: Vec<(String, i64, String, String)> =
        sqlx::query_as("select sku, sequence, name, body from outbox order by id")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    for (sku, name) in SKUS.iter().enumerate() {
        let of_sku: Vec<_> = events.iter().filter(|(of, ..)| of == name).collect();
        let sequences: Vec<_> = of_sku.iter().map(|(_, sequence, ..)| *sequence).collect();
        assert_eq!(sequences, (1..).take(of_sku.len()).collect::<Vec<i64>>());
        let published: Vec<_> = of_sku.iter().map(|(_, _, name, body)| summary(name, body)).collect();
        assert_eq!(&published, model.events.entry(sku).or_default());
    }
    let mut view: Vec<(String, String, i32, Option<String>)> =
        sqlx::query_as("select orderid, sku, qty, batchref from allocations_view")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    view.sort();
    let expected = model.view().into_iter();
    let expected =
        expected.map(|(orderid, sku, qty, batch)| (orderid, sku.to_owned(), qty.cast_signed(), batch));
    assert_eq!(view, expected.collect::<Vec<_>>());
    system.assert_consistent().await;
}
