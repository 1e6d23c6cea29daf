//! A worker process: deliveries, groups, starts, acknowledgement, and the ways in which it stops.
//!
//! One worker has one subscription and one partition. A group is handled in one unit of work (see `unit_of_work`);
//! the acknowledgement is a later step, and several finished groups may be acknowledged together. The process that
//! starts after a crash or an orderly stop replaces the previous one. Not modelled: conflicts that are retried at
//! once, bisecting of a group that fails as a whole.

use crate::{
    config::{Config, Fault},
    state::{Message, Set, State},
};

/// A message with this many unfinished starts is handled alone.
pub(crate) const ISOLATE_AFTER_STARTS: u8 = 2;
/// A message with this many unfinished starts is dead as `crash_loop`.
pub(crate) const DEAD_AFTER_STARTS: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Receives deliveries and handles them.
    Working,
    /// The database was unavailable: keeps its messages, and tries again.
    Waiting,
    /// Receives nothing more; acknowledges what is finished, reverts its starts and closes the connection.
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    /// Deliveries that are not acknowledged, in the order of arrival.
    pub(crate) held: Vec<Message>,
    /// The number of finished ones, from the first on.
    pub(crate) finished: u8,
    /// Messages whose start this process recorded and that it did not finish.
    pub(crate) recorded_starts: Set,
    /// The broker has the connection. Without it the process may still handle the messages it holds.
    pub(crate) connected: bool,
    pub(crate) phase: Phase,
}

/// How the next group is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Together with its neighbours in the order of arrival.
    Shared,
    /// Alone: too many unfinished starts.
    Exclusive,
    /// Not handled any more: recorded as dead.
    GiveUp,
}

impl Worker {
    pub(crate) const NEW: Self = Self {
        held: Vec::new(),
        finished: 0,
        recorded_starts: Set(0),
        connected: true,
        phase: Phase::Working,
    };

    pub(crate) fn unfinished(&self) -> &[Message] {
        &self.held[usize::from(self.finished)..]
    }
}

impl State {
    fn isolation(&self, worker: &Worker, message: Message) -> Isolation {
        let own = u8::from(worker.recorded_starts.has(message.id));
        // A process reads the starts before it records its own.
        match self.starts[usize::from(message.id)].saturating_sub(own) {
            _ if !message.redelivered => Isolation::Shared,
            starts if starts >= DEAD_AFTER_STARTS => Isolation::GiveUp,
            starts if starts >= ISOLATE_AFTER_STARTS => Isolation::Exclusive,
            _ => Isolation::Shared,
        }
    }

    /// The deliveries of the next unit of work. It contains an id once; an exclusive message ends the group before
    /// it, so that the order of arrival is kept.
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
            let exists = ids.has(message.id);
            ids.add(message.id);
            !exists && self.isolation(worker, **message) == Isolation::Shared
        };
        let length = unfinished.iter().take(usize::from(config.max_batch)).take_while(belongs);
        (&unfinished[..length.count()], isolation)
    }

    /// Members of the next group whose start must be recorded before they are handled.
    pub(crate) fn unrecorded_starts(&self, config: &Config, worker: u8) -> Set {
        let recorded_starts = self.workers[usize::from(worker)].recorded_starts;
        let mut unrecorded_starts = Set::default();
        if let (group, Isolation::Shared | Isolation::Exclusive) = self.group(config, worker) {
            for message in
                group.iter().filter(|message| message.redelivered && !recorded_starts.has(message.id))
            {
                unrecorded_starts.add(message.id);
            }
        }
        unrecorded_starts
    }

    /// A transaction of its own, before the group is handled.
    pub(crate) fn record_starts(&mut self, config: &Config, worker: u8) {
        for id in self.unrecorded_starts(config, worker).members() {
            self.starts[usize::from(id)] += 1;
            self.workers[usize::from(worker)].recorded_starts.add(id);
        }
    }

    pub(crate) fn acknowledge(&mut self, worker: u8) {
        let worker = &mut self.workers[usize::from(worker)];
        worker.held.drain(..usize::from(worker.finished));
        worker.finished = 0;
    }

    /// The worker stops in order: after a stop signal, or to return its messages in an outage.
    pub(crate) fn begin_stop(&mut self, config: &Config, worker: u8) {
        let index = usize::from(worker);
        let keeps_starts = match config.fault {
            Fault::StartsNotReverted => true,
            Fault::StopWithoutDatabase => self.workers[index].phase == Phase::Waiting,
            _ => false,
        };
        if keeps_starts {
            self.workers[index].recorded_starts = Set::default();
        }
        self.workers[index].phase = Phase::Stopping;
        self.replace_if_stopped(worker);
    }

    /// A transaction of its own, before or after the connection is closed, but before the next subscription.
    pub(crate) fn revert_starts(&mut self, worker: u8) {
        let recorded_starts = std::mem::take(&mut self.workers[usize::from(worker)].recorded_starts);
        for id in recorded_starts.members() {
            let starts = &mut self.starts[usize::from(id)];
            *starts = starts.saturating_sub(1);
        }
        self.replace_if_stopped(worker);
    }

    /// Closes the connection, without cancel and reject.
    pub(crate) fn close(&mut self, config: &Config, worker: u8) {
        if config.fault == Fault::ReturnInDifferentOrder {
            self.workers[usize::from(worker)].held.reverse();
        }
        self.end_connection(worker);
        self.replace_if_stopped(worker);
    }

    /// The connection is lost. The process still handles the group that it has begun. If it waits for the database,
    /// it stops in order.
    pub(crate) fn lose_connection(&mut self, worker: u8) {
        self.end_connection(worker);
        let worker_state = &mut self.workers[usize::from(worker)];
        if worker_state.phase == Phase::Waiting || worker_state.unfinished().is_empty() {
            worker_state.phase = Phase::Stopping;
        }
        self.replace_if_stopped(worker);
    }

    /// The next process, or the next subscription of this one, starts empty.
    pub(crate) fn replace_if_stopped(&mut self, worker: u8) {
        let worker_state = &mut self.workers[usize::from(worker)];
        if worker_state.phase == Phase::Stopping
            && !worker_state.connected
            && worker_state.recorded_starts.is_empty()
        {
            *worker_state = Worker::NEW;
        }
    }

    /// The process crashes: an open transaction is rolled back, and the broker requeues unacknowledged messages.
    pub(crate) fn crash(&mut self, worker: u8) {
        self.end_connection(worker);
        let index = usize::from(worker);
        for id in self.workers[index].recorded_starts.members() {
            self.history.crashes[usize::from(id)] += 1;
        }
        self.workers[index] = Worker::NEW;
    }
}
