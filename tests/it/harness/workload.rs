//! A random workload from a seed.

use std::collections::{BTreeMap, HashSet};

use super::{
    Event, TestSystem,
    commands::{Command, Random, allocate, change_batch_quantity, create_batch, deallocate},
};

/// Batches, and commands for slightly more than their stock: some lines are deallocated, some batches changed, and every tenth
/// command is sent twice.
pub(crate) struct Workload {
    pub(crate) batches: Vec<Command>,
    pub(crate) commands: Vec<Command>,
    /// The lines that are not deallocated, by order and SKU, with their quantities.
    pub(crate) remaining_lines: BTreeMap<(String, String), i32>,
}

impl Workload {
    /// A workload with this number of lines, one batch for twenty lines and one SKU for a hundred.
    pub(crate) fn seeded(seed: u64, lines: u32) -> Self {
        let mut random = Random::seeded(seed);
        let (batches, skus) = ((lines / 20).max(1), (lines / 100).max(1));
        let sku = |number: u32| format!("SKU-{:02}", number % skus);
        let reference = |number: u32| format!("batch-{number:03}");
        let mut workload = Self {
            batches: (0..batches)
                .map(|number| create_batch(&reference(number), &sku(number), 50 + random.below(100)))
                .collect(),
            commands: Vec::new(),
            remaining_lines: BTreeMap::new(),
        };
        for number in 0..lines {
            let (orderid, sku, qty) =
                (format!("order-{number}"), sku(random.below(skus)), 1 + random.below(10));
            workload.commands.push(allocate(&orderid, &sku, qty));
            if random.percent(10) {
                workload.commands.push(deallocate(&orderid, &sku));
            } else {
                workload
                    .remaining_lines
                    .insert((orderid, sku), i32::try_from(qty).expect("a quantity is small"));
            }
            if random.percent(8) {
                let change = change_batch_quantity(&reference(random.below(batches)), 30 + random.below(150));
                workload.commands.push(change.with_id(&format!("change-{number}")));
            }
            if random.percent(12) {
                let duplicate = random.pick(&workload.commands).clone();
                workload.commands.push(duplicate);
            }
        }
        workload
    }

    /// The number of commands, without duplicates.
    pub(crate) fn distinct(&self) -> usize {
        let all = self.batches.iter().chain(&self.commands);
        all.map(|command| (command.queue(), &command.message_id)).collect::<HashSet<_>>().len()
    }

    /// Sends the batches and waits until they exist, so that no later command is rejected.
    pub(crate) async fn create_batches(&self, system: &TestSystem) {
        system.sender.send_all(&self.batches).await;
        system.wait_handled(self.batches.len()).await;
    }

    /// The commands, divided into this number of parts.
    pub(crate) fn parts(&self, count: usize) -> impl Iterator<Item = &[Command]> {
        self.commands.chunks(self.commands.len().div_ceil(count))
    }

    /// Waits until every command is handled, and asserts that events and tables agree.
    pub(crate) async fn assert_all_handled(&self, system: &TestSystem) {
        let events = system.settled(self.distinct()).await;
        assert_eq!(allocated_by(&events), system.allocated_lines().await);
        let lines: Vec<(String, String, i32)> = sqlx::query_as("select orderid, sku, qty from order_lines")
            .fetch_all(&system.pool)
            .await
            .expect("the lines can be read");
        let lines: BTreeMap<_, _> =
            lines.into_iter().map(|(orderid, sku, qty)| ((orderid, sku), qty)).collect();
        for (line, qty) in &self.remaining_lines {
            assert_eq!(lines.get(line), Some(qty), "{line:?} is missing or has another quantity");
        }
    }
}

/// The allocated lines according to the events: the batch, by order and SKU.
pub(crate) fn allocated_by(events: &[Event]) -> BTreeMap<(String, String), String> {
    let mut seen = HashSet::new();
    let mut lines = BTreeMap::new();
    for event in events.iter().filter(|event| seen.insert(event.id())) {
        let line = (event.field("orderid").to_owned(), event.field("sku").to_owned());
        match event.kind() {
            "allocated" => {
                let before = lines.insert(line, event.field("batchref").to_owned());
                assert_eq!(before, None, "in two batches: {event:?}");
            }
            "deallocated" => {
                let before = lines.remove(&line);
                assert_eq!(before.as_deref(), Some(event.field("batchref")), "{event:?}");
            }
            _ => assert!(!lines.contains_key(&line), "out of stock while allocated: {event:?}"),
        }
    }
    lines
}
