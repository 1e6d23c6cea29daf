//! A worker process: deliveries, groups, starts, acknowledgement, and the ways in which it ends.
//!
//! One worker has one subscription and one partition. A group is handled in one unit of work (see `unit_of_work`);
//! the acknowledgement is a later step, and several finished groups may be acknowledged together. The process that
//! restarts after a crash or an orderly end takes the place of the one before it.
//! Not modelled: conflicts that are retried at once, bisecting of a group that fails as a whole.

use crate::{
    config::{Config, Fault},
    state::{Message, Set, State},
};

/// A message that was started so often without an end is handled alone.
pub(crate) const ISOLATE_AFTER_STARTS: u8 = 2;
/// A message that was started so often without an end is dead as `crash_loop`.
pub(crate) const DEAD_AFTER_STARTS: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Takes deliveries and handles them.
    Working,
    /// The database was unavailable: holds what it has, and tries again.
    Waiting,
    /// Takes nothing more; acknowledges what is finished, takes back its starts and closes the connection.
    Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    /// Deliveries that are not acknowledged, in the order of arrival.
    pub(crate) held: Vec<Message>,
    /// How many of them, from the first on, are finished.
    pub(crate) finished: u8,
    /// Messages whose start this process counted and that it did not finish.
    pub(crate) counted: Set,
    /// The broker has the connection. Without it the process may still handle what it holds.
    pub(crate) connected: bool,
    pub(crate) phase: Phase,
}

/// How the next group is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Together with its neighbours in the order of arrival.
    Shared,
    /// Alone: it was started too often without an end.
    Exclusive,
    /// Not handled any more: recorded as dead.
    GiveUp,
}

impl Worker {
    pub(crate) const NEW: Self =
        Self { held: Vec::new(), finished: 0, counted: Set(0), connected: true, phase: Phase::Working };

    pub(crate) fn unfinished(&self) -> &[Message] {
        &self.held[usize::from(self.finished)..]
    }
}

impl State {
    fn isolation(&self, worker: &Worker, message: Message) -> Isolation {
        let own = u8::from(worker.counted.has(message.id));
        // A process looks the starts up before it counts its own.
        match self.starts[usize::from(message.id)].saturating_sub(own) {
            _ if !message.redelivered => Isolation::Shared,
            starts if starts >= DEAD_AFTER_STARTS => Isolation::GiveUp,
            starts if starts >= ISOLATE_AFTER_STARTS => Isolation::Exclusive,
            _ => Isolation::Shared,
        }
    }

    /// The deliveries that go into the next unit of work. An id is in it once; an exclusive message ends the group
    /// before it, so that the order of arrival is kept.
    pub(crate) fn group(&self, config: &Config, worker: u8) -> (&[Message], Isolation) {
        let worker = &self.workers[usize::from(worker)];
        let unfinished = worker.unfinished();
        let Some(first) = unfinished.first() else { return (&[], Isolation::Shared) };
        let isolation = self.isolation(worker, *first);
        if isolation != Isolation::Shared {
            return (&unfinished[..1], isolation);
        }
        let mut ids = Set::default();
        let belongs = |message: &&Message| {
            let known = ids.has(message.id);
            ids.add(message.id);
            !known && self.isolation(worker, **message) == Isolation::Shared
        };
        let length = unfinished.iter().take(usize::from(config.max_batch)).take_while(belongs);
        (&unfinished[..length.count()], isolation)
    }

    /// Members of the next group whose start is to be counted before they are handled.
    pub(crate) fn uncounted(&self, config: &Config, worker: u8) -> Set {
        let counted = self.workers[usize::from(worker)].counted;
        let mut uncounted = Set::default();
        if let (group, Isolation::Shared | Isolation::Exclusive) = self.group(config, worker) {
            for message in group.iter().filter(|message| message.redelivered && !counted.has(message.id)) {
                uncounted.add(message.id);
            }
        }
        uncounted
    }

    /// A transaction of its own, before the group is handled.
    pub(crate) fn count_starts(&mut self, config: &Config, worker: u8) {
        for id in self.uncounted(config, worker).members() {
            self.starts[usize::from(id)] += 1;
            self.workers[usize::from(worker)].counted.add(id);
        }
    }

    pub(crate) fn acknowledge(&mut self, worker: u8) {
        let worker = &mut self.workers[usize::from(worker)];
        worker.held.drain(..usize::from(worker.finished));
        worker.finished = 0;
    }

    /// The worker ends in order: because it is told to stop, or to hand back what it holds in an outage.
    pub(crate) fn begin_to_end(&mut self, config: &Config, worker: u8) {
        let place = usize::from(worker);
        let keeps_starts = match config.fault {
            Fault::StartsAreKept => true,
            Fault::EndWithoutDatabase => self.workers[place].phase == Phase::Waiting,
            _ => false,
        };
        if keeps_starts {
            self.workers[place].counted = Set::default();
        }
        self.workers[place].phase = Phase::Ending;
        self.replace_if_ended(worker);
    }

    /// A transaction of its own, before or after the connection is closed, but before the next subscription.
    pub(crate) fn take_back_starts(&mut self, worker: u8) {
        let counted = std::mem::take(&mut self.workers[usize::from(worker)].counted);
        for id in counted.members() {
            let starts = &mut self.starts[usize::from(id)];
            *starts = starts.saturating_sub(1);
        }
        self.replace_if_ended(worker);
    }

    /// Closes the connection, without cancel and reject.
    pub(crate) fn close(&mut self, config: &Config, worker: u8) {
        if config.fault == Fault::ReturnInAnotherOrder {
            self.workers[usize::from(worker)].held.reverse();
        }
        self.connection_ends(worker);
        self.replace_if_ended(worker);
    }

    /// The connection is lost. The process still handles the group that it has begun. If it waits for the database, it
    /// ends in order.
    pub(crate) fn cut(&mut self, worker: u8) {
        self.connection_ends(worker);
        let ended = &mut self.workers[usize::from(worker)];
        if ended.phase == Phase::Waiting || ended.unfinished().is_empty() {
            ended.phase = Phase::Ending;
        }
        self.replace_if_ended(worker);
    }

    /// The next process, or the next subscription of this one, begins with nothing.
    pub(crate) fn replace_if_ended(&mut self, worker: u8) {
        let ended = &mut self.workers[usize::from(worker)];
        if ended.phase == Phase::Ending && !ended.connected && ended.counted.is_empty() {
            *ended = Worker::NEW;
        }
    }

    /// The process dies: an open transaction is rolled back, and the broker takes back what was not acknowledged.
    pub(crate) fn crash(&mut self, worker: u8) {
        self.connection_ends(worker);
        let place = usize::from(worker);
        for id in self.workers[place].counted.members() {
            self.history.deaths[usize::from(id)] += 1;
        }
        self.workers[place] = Worker::NEW;
    }
}
