//! Random commands with random failures lead to the state of a system that handles each key strictly in order.

use std::time::Duration;

use allocation::ports::queue::QueueName;

use crate::harness::{Random, allocate, change_batch_quantity, create_batch, deallocate};

use super::simulation::{MAX_ATTEMPTS, Mistake, Sent, Simulation, State};

/// `KEY_ORDER_RUNS` is another number.
const RUNS: u64 = 500;
const SKUS: [&str; 2] = ["LAMP", "VASE"];
const COMMANDS: u32 = 14;

/// A command about one of four lines or two batches, of which a third fails at least once.
fn random_command(random: &mut Random, number: u32) -> Sent {
    let sku = SKUS[random.below(2) as usize];
    let orderid = format!("o-{}", random.below(2));
    let quantity = 1 + random.below(3);
    let command = match random.below(8) {
        0..=2 => allocate(&orderid, sku, quantity),
        3..=5 => deallocate(&orderid, sku),
        6 => change_batch_quantity(&format!("b-{sku}"), 1_000 + random.below(5)),
        _ => create_batch(&format!("b-{sku}"), sku, 1_000 + random.below(2)),
    };
    let failures = match random.below(9) {
        0 | 1 => 1 + random.below(MAX_ATTEMPTS - 1),
        2 => MAX_ATTEMPTS,
        _ => 0,
    };
    Sent { command: command.with_id(&format!("m-{number}")), failures }
}

/// Whether a run ends in the state of strict order, with nothing left.
async fn keeps_order(seed: u64, workers: usize, mistake: Mistake) -> bool {
    let mut random = Random::seeded(seed);
    let (mut simulation, mut expected) = (Simulation::new(workers, mistake).await, State::default());
    let stock = SKUS.map(|sku| Sent { command: create_batch(&format!("b-{sku}"), sku, 1_000), failures: 0 });
    for sent in &stock {
        simulation.send(sent);
        expected.apply(sent);
    }
    simulation.finish().await;
    let mut number = 0;
    while number < COMMANDS {
        match random.below(6) {
            0..=2 => {
                let sent = random_command(&mut random, number);
                simulation.send(&sent);
                expected.apply(&sent);
                number += 1;
            }
            3 => {
                let queue = if random.below(4) == 0 { QueueName::Stock } else { QueueName::Orders };
                let (count, acknowledge) = (1 + random.below(6) as usize, random.below(8) > 0);
                simulation.handle(queue, count, acknowledge).await;
            }
            4 => simulation.publish_retries(1 + random.below(4)).await,
            _ => tokio::time::advance(Duration::from_millis(u64::from(random.below(4_000)))).await,
        }
    }
    simulation.finish().await && simulation.state(&SKUS).await == expected
}

async fn first_failure(workers: usize, mistake: Mistake) -> Option<u64> {
    let runs = std::env::var("KEY_ORDER_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    for seed in 0..runs {
        if !keeps_order(seed, workers, mistake).await {
            return Some(seed);
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn one_worker_keeps_the_order_of_each_key() {
    assert_eq!(first_failure(1, Mistake::None).await, None, "the first run that does not");
}

/// Of which one at a time is active, as with `queues.single_active_consumer`.
#[tokio::test(start_paused = true)]
async fn three_workers_keep_the_order_of_each_key() {
    assert_eq!(first_failure(3, Mistake::None).await, None, "the first run that does not");
}

#[tokio::test(start_paused = true)]
async fn the_runs_find_mistakes() {
    for mistake in [Mistake::ReleasesByTime, Mistake::ReleasesNothing] {
        assert!(first_failure(1, mistake).await.is_some(), "{mistake:?}");
    }
}
