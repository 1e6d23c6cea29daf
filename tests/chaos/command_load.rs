//! Commands from a seed that make a lost or repeated effect visible: every order has a unique id, a line is
//! deallocated and a batch quantity changed only after the commands before have been handled, and each quantity is
//! used once.
//!
//! A repeated command is visible only after its effect was superseded: allocating an existing line has no effect. Old
//! commands are therefore sent again after their lines were deallocated; without the inbox the lines would exist
//! again.

use std::time::Duration;

use crate::{
    command::{Command, allocate, change_batch_quantity, create_batch, deallocate},
    random::Random,
    test_system::TestSystem,
    wait::wait_until_equal,
};

/// The products of every test system. The last one has little stock, so that its lines are backordered.
pub(crate) const SKUS: [&str; 8] = ["LAMP", "DESK", "SOFA", "CHAIR", "TABLE", "SHELF", "STOOL", "SCARCE"];
/// Quantity of a new batch, decrease per change, and number of possible changes.
const BATCH_QTY: i64 = 60;
const DECREASE: i64 = 5;
const MAX_CHANGES: i64 = 11;

/// A batch and the number of changes of its quantity.
struct BatchState {
    reference: String,
    changes: i64,
}

/// Makes commands. New lines and batches are used by later commands after [`CommandLoad::mark_handled`].
pub(crate) struct CommandLoad {
    random: Random,
    next: u32,
    /// Lines and batches that were handled.
    lines: Vec<(String, &'static str)>,
    batches: Vec<BatchState>,
    /// Lines and batches that may not have been handled.
    new_lines: Vec<(String, &'static str)>,
    new_batches: Vec<BatchState>,
}

impl CommandLoad {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            random: Random::seeded(seed),
            next: 0,
            lines: Vec::new(),
            batches: Vec::new(),
            new_lines: Vec::new(),
            new_batches: Vec::new(),
        }
    }

    /// Every command made so far has been handled.
    pub(crate) fn mark_handled(&mut self) {
        self.lines.append(&mut self.new_lines);
        self.batches.append(&mut self.new_batches);
    }

    /// Deallocates all handled lines.
    pub(crate) fn deallocate_all(&mut self) -> Vec<Command> {
        self.lines.drain(..).map(|(orderid, sku)| deallocate(&orderid, sku)).collect()
    }

    /// The next `count` commands: new lines and batches, and changes of handled ones.
    pub(crate) fn next_commands(&mut self, count: usize) -> Vec<Command> {
        (0..count).map(|_| self.command()).collect()
    }

    fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..25 => self.deallocation(),
            25..35 => self.quantity_change(),
            35..42 => Some(self.new_batch()),
            _ => None,
        }
        .unwrap_or_else(|| self.allocation())
    }

    fn allocation(&mut self) -> Command {
        let (orderid, sku) = (format!("order-{}", self.next_number()), self.sku());
        let qty = 1 + self.random.below(4);
        self.new_lines.push((orderid.clone(), sku));
        allocate(&orderid, sku, qty)
    }

    fn new_batch(&mut self) -> Command {
        let (reference, sku) = (format!("batch-{}", self.next_number()), self.sku());
        self.new_batches.push(BatchState { reference: reference.clone(), changes: 0 });
        create_batch(&reference, sku, BATCH_QTY)
    }

    /// A line is deallocated once.
    fn deallocation(&mut self) -> Option<Command> {
        let count = u32::try_from(self.lines.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.random.below(count)).ok()?;
        let (orderid, sku) = self.lines.swap_remove(index);
        Some(deallocate(&orderid, sku))
    }

    /// The quantity changes again only after the last change was handled.
    fn quantity_change(&mut self) -> Option<Command> {
        let count = u32::try_from(self.batches.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.random.below(count)).ok()?;
        let mut batch = self.batches.swap_remove(index);
        batch.changes += 1;
        let qty = BATCH_QTY - DECREASE * batch.changes;
        let revision = self.random.percent(50).then_some(batch.changes);
        let command = change_batch_quantity(&batch.reference, qty, revision);
        if batch.changes < MAX_CHANGES {
            self.new_batches.push(batch);
        }
        Some(command)
    }

    fn sku(&mut self) -> &'static str {
        let count = u32::try_from(SKUS.len()).unwrap_or(1);
        SKUS[usize::try_from(self.random.below(count)).unwrap_or_default()]
    }

    fn next_number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

/// A new line of every product.
fn markers(number: usize) -> Vec<Command> {
    SKUS.iter().map(|sku| allocate(&format!("marker-{number}"), sku, 1)).collect()
}

impl TestSystem<'_> {
    /// Sends commands, and waits until all commands sent so far are handled.
    pub(crate) async fn send_and_wait(
        &self,
        commands: &[Command],
        timeout: Duration,
    ) -> anyhow::Result<Duration> {
        self.send(commands).await?;
        self.wait_all_handled(timeout).await
    }

    /// Waits until all commands sent so far are handled.
    pub(crate) async fn wait_all_handled(&self, timeout: Duration) -> anyhow::Result<Duration> {
        let attempted = i64::try_from(self.command_source.attempt_count())?;
        wait_until_equal("all commands are handled", timeout, &attempted, async || self.handled().await).await
    }

    /// Sends old commands again, and waits until they are consumed: new lines of every product follow them, with a
    /// new number each time. A single worker handles the lines of a product in order.
    pub(crate) async fn resend_old(
        &self,
        old: &[Command],
        number: usize,
        timeout: Duration,
    ) -> anyhow::Result<Duration> {
        self.command_source.resend(old).await?;
        self.send_and_wait(&markers(number), timeout).await?;
        wait_until_equal("the resent commands are consumed", timeout, &0, async || {
            self.ready_commands().await
        })
        .await
    }
}
