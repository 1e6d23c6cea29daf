//! Commands made up from a seed so that a lost or a double effect shows: every order has one id, a line is cancelled
//! and a batch counted again only after what came before has been handled, and no count repeats another.
//!
//! A repeat shows only after something has superseded it: a line that is there is not asked for again. So old commands
//! come once more when their lines are gone; without the inbox they would be there a second time.

use std::time::Duration;

use crate::{
    command::{Command, allocate, change_batch_quantity, create_batch, deallocate},
    random::Random,
    wait::until_is,
    world::World,
};

/// The products of every world. The last one is scarce: its lines wait for each other's stock.
pub(crate) const SKUS: [&str; 8] = ["LAMP", "DESK", "SOFA", "CHAIR", "TABLE", "SHELF", "STOOL", "SCARCE"];
/// What a new batch holds, by how much each count is less than the one before, and how many there can be.
const NEW_BATCH: i64 = 60;
const SHRINKS_BY: i64 = 5;
const COUNTS: i64 = 11;

/// A batch that may be counted again.
struct Batch {
    reference: String,
    counted: i64,
}

/// Makes commands; what it made last counts as handled only when somebody says so.
pub(crate) struct Load {
    random: Random,
    next: u32,
    /// Lines and batches that were handled.
    lines: Vec<(String, &'static str)>,
    batches: Vec<Batch>,
    /// Those that may not be.
    new_lines: Vec<(String, &'static str)>,
    new_batches: Vec<Batch>,
}

impl Load {
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

    /// Everything that was made so far has been handled.
    pub(crate) fn handled(&mut self) {
        self.lines.append(&mut self.new_lines);
        self.batches.append(&mut self.new_batches);
    }

    /// Takes back all lines that were handled.
    pub(crate) fn cancel_all(&mut self) -> Vec<Command> {
        self.lines.drain(..).map(|(orderid, sku)| deallocate(&orderid, sku)).collect()
    }

    /// The next so many commands: lines and batches, and as far as earlier ones were handled, changes to those.
    pub(crate) fn portion(&mut self, count: usize) -> Vec<Command> {
        (0..count).map(|_| self.command()).collect()
    }

    fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..25 => self.cancellation(),
            25..35 => self.count(),
            35..42 => Some(self.batch()),
            _ => None,
        }
        .unwrap_or_else(|| self.line())
    }

    fn line(&mut self) -> Command {
        let (orderid, sku) = (format!("order-{}", self.number()), self.sku());
        let qty = 1 + self.random.below(4);
        self.new_lines.push((orderid.clone(), sku));
        allocate(&orderid, sku, qty)
    }

    fn batch(&mut self) -> Command {
        let (reference, sku) = (format!("batch-{}", self.number()), self.sku());
        self.new_batches.push(Batch { reference: reference.clone(), counted: 0 });
        create_batch(&reference, sku, NEW_BATCH)
    }

    /// A line is cancelled once.
    fn cancellation(&mut self) -> Option<Command> {
        let count = u32::try_from(self.lines.len()).ok().filter(|count| *count > 0)?;
        let chosen = usize::try_from(self.random.below(count)).ok()?;
        let (orderid, sku) = self.lines.swap_remove(chosen);
        Some(deallocate(&orderid, sku))
    }

    /// A batch is counted again only after its last count was handled.
    fn count(&mut self) -> Option<Command> {
        let count = u32::try_from(self.batches.len()).ok().filter(|count| *count > 0)?;
        let chosen = usize::try_from(self.random.below(count)).ok()?;
        let mut batch = self.batches.swap_remove(chosen);
        batch.counted += 1;
        let qty = NEW_BATCH - SHRINKS_BY * batch.counted;
        let revision = self.random.percent(50).then_some(batch.counted);
        let command = change_batch_quantity(&batch.reference, qty, revision);
        if batch.counted < COUNTS {
            self.new_batches.push(batch);
        }
        Some(command)
    }

    fn sku(&mut self) -> &'static str {
        let count = u32::try_from(SKUS.len()).unwrap_or(1);
        SKUS[usize::try_from(self.random.below(count)).unwrap_or_default()]
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

/// A new line of every product.
fn markers(number: usize) -> Vec<Command> {
    SKUS.iter().map(|sku| allocate(&format!("marker-{number}"), sku, 1)).collect()
}

impl World<'_> {
    /// Sends commands, and waits until these and all that were sent before are handled.
    pub(crate) async fn have_handled(
        &self,
        commands: &[Command],
        within: Duration,
    ) -> anyhow::Result<Duration> {
        self.send(commands).await?;
        self.all_handled(within).await
    }

    /// Waits until everything that was sent is handled.
    pub(crate) async fn all_handled(&self, within: Duration) -> anyhow::Result<Duration> {
        let attempted = i64::try_from(self.upstream.attempts())?;
        until_is("all is handled", within, &attempted, async || self.handled().await).await
    }

    /// Sends old commands once more, and waits until they are taken: behind them come new lines of every product, each
    /// time under another number, and where only one worker is left, it takes the lines of a product in order.
    pub(crate) async fn repeat_old(
        &self,
        old: &[Command],
        number: usize,
        within: Duration,
    ) -> anyhow::Result<Duration> {
        self.upstream.repeat(old).await?;
        self.have_handled(&markers(number), within).await?;
        until_is("old commands are taken", within, &0, async || self.ready().await).await
    }
}
