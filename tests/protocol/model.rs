//! The model: the possible steps in a state, and the effect of each.
//!
//! The program takes progress steps by itself; they end after a finite number. All other steps are disturbances,
//! limited by the budget.

use stateright::{Model, Property};

use crate::{
    broker::Queue,
    config::Config,
    failed_messages::Operation,
    properties,
    relay::{Relay, RelayStep},
    state::{History, MESSAGES, Set, State},
    worker::{Isolation, Phase, Worker},
};

/// A step. Workers, relays and messages are numbered from 0; `row` is the number of a failed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send { id: u8 },
    SendAgain { id: u8 },

    Subscribe { worker: u8 },
    Deliver { worker: u8 },
    RecordStarts { worker: u8 },
    HandleAndCommit { worker: u8, rejected: Set },
    CommitReplyLost { worker: u8, rejected: Set },
    Acknowledge { worker: u8 },
    DatabaseUnavailable { worker: u8 },
    TryAgain { worker: u8 },
    ReturnMessages { worker: u8 },
    Stop { worker: u8 },
    RevertStarts { worker: u8 },
    Close { worker: u8 },
    ConnectionLost { worker: u8 },
    Crash { worker: u8 },
    CrashedByMessage { worker: u8 },

    Relay { relay: u8, step: RelayStep },
    TakeOver,
    RelayCrash { relay: u8 },

    Operator { operation: Operation, row: u8 },
    RemoveInboxRow { id: u8 },
    RemoveFailedMessage { row: u8 },
}

/// A configuration to check.
pub(crate) struct Protocol {
    pub(crate) config: Config,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            queue: Queue::default(),
            active: None,
            arrived: Set::default(),
            workers: vec![Worker::NEW; usize::from(self.config.workers)],
            relays: vec![Relay::default(); usize::from(self.config.relays)],
            leader: 0,
            shown: None,
            inbox: [None; MESSAGES],
            failed: Vec::new(),
            next_row: 0,
            starts: [0; MESSAGES],
            effects: Vec::new(),
            outbox: Set::default(),
            remaining: self.config.budget,
            history: History::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        for worker in 0..self.config.workers {
            self.worker_disturbances(state, worker, actions);
        }
        self.other_disturbances(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.apply(&mut next, action);
        if self.config.single_active_consumer {
            next.fill_active_consumer();
        }
        if self.config.symmetric {
            next.sort_processes();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.config)
    }
}

impl Protocol {
    /// Steps without a disturbance.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let next = state.history.sent.iter().position(|&sent| sent == 0).unwrap_or(MESSAGES);
        if next < usize::from(self.config.messages) {
            actions.push(Action::Send { id: u8::try_from(next).expect("there are few messages") });
        }
        for worker in 0..self.config.workers {
            self.worker_progress(state, worker, actions);
        }
        let mut steps = Vec::new();
        for relay in (0..).take(state.relays.len()) {
            state.relay_steps(&self.config, relay, &mut steps);
            actions.extend(steps.drain(..).map(|step| Action::Relay { relay, step }));
        }
    }

    /// Whether the program has work left.
    pub(crate) fn can_progress(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        (0..self.config.workers).any(|worker| {
            self.worker_progress(state, worker, &mut actions);
            !actions.is_empty()
        }) || {
            self.progress(state, &mut actions);
            !actions.is_empty()
        }
    }

    fn worker_progress(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let worker_state = &state.workers[usize::from(worker)];
        if worker_state.connected && worker_state.finished > 0 {
            actions.push(Action::Acknowledge { worker });
        }
        match worker_state.phase {
            Phase::Working => {
                self.subscription_progress(state, worker, actions);
                if worker_state.unfinished().is_empty() {
                } else if !state.unrecorded_starts(&self.config, worker).is_empty() {
                    actions.push(Action::RecordStarts { worker });
                } else if self.crashes_worker(state, worker) {
                    actions.push(Action::CrashedByMessage { worker });
                } else {
                    actions.push(Action::HandleAndCommit { worker, rejected: Set::default() });
                }
            }
            Phase::Waiting => actions.push(Action::TryAgain { worker }),
            Phase::Stopping => {
                if !worker_state.recorded_starts.is_empty() {
                    actions.push(Action::RevertStarts { worker });
                }
                if worker_state.connected && worker_state.finished == 0 {
                    actions.push(Action::Close { worker });
                }
            }
        }
    }

    fn subscription_progress(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let worker_state = &state.workers[usize::from(worker)];
        if !worker_state.connected || state.queue.is_empty() {
        } else if self.config.single_active_consumer {
            if state.active.is_none() {
                actions.push(Action::Subscribe { worker });
            }
        } else if worker_state.held.len() < usize::from(self.config.prefetch) {
            actions.push(Action::Deliver { worker });
        }
    }

    /// Whether the next group of a worker contains the message that crashes it.
    fn crashes_worker(&self, state: &State, worker: u8) -> bool {
        let (group, isolation) = state.group(&self.config, worker);
        isolation != Isolation::GiveUp
            && group.iter().any(|message| {
                self.config.poison == Some(message.id) && state.reaches_handler(&self.config, *message)
            })
    }

    fn worker_disturbances(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let worker_state = &state.workers[usize::from(worker)];
        if worker_state.held.is_empty() {
            return;
        }
        let remaining = &state.remaining;
        let ready = worker_state.phase == Phase::Working
            && !worker_state.unfinished().is_empty()
            && state.unrecorded_starts(&self.config, worker).is_empty()
            && !self.crashes_worker(state, worker);
        if ready {
            let rejections = self.rejections(state, worker);
            let rejected = rejections.iter().filter(|rejected| !rejected.is_empty());
            actions.extend(rejected.map(|&rejected| Action::HandleAndCommit { worker, rejected }));
            if remaining.lost_replies > 0 {
                let all = rejections.iter();
                actions.extend(all.map(|&rejected| Action::CommitReplyLost { worker, rejected }));
            }
            if remaining.outages > 0 {
                actions.push(Action::DatabaseUnavailable { worker });
            }
        }
        if worker_state.phase == Phase::Waiting {
            actions.push(Action::ReturnMessages { worker });
        }
        if remaining.stops > 0 && worker_state.connected && worker_state.phase != Phase::Stopping {
            actions.push(Action::Stop { worker });
        }
        if remaining.lost_connections > 0 && worker_state.connected {
            actions.push(Action::ConnectionLost { worker });
        }
        if remaining.crashes > 0 {
            actions.push(Action::Crash { worker });
        }
    }

    /// The sets of members of the next group that the handler may reject, within the budget.
    fn rejections(&self, state: &State, worker: u8) -> Vec<Set> {
        let (group, isolation) = state.group(&self.config, worker);
        let mut sets = vec![Set::default()];
        if isolation == Isolation::GiveUp {
            return sets;
        }
        for (index, message) in (0..).zip(group) {
            if state.reaches_handler(&self.config, *message) {
                for mut set in sets.clone() {
                    set.add(index);
                    sets.push(set);
                }
            }
        }
        sets.retain(|set| set.members().count() <= usize::from(state.remaining.rejections));
        sets
    }

    fn other_disturbances(&self, state: &State, actions: &mut Vec<Action>) {
        let remaining = &state.remaining;
        let history = &state.history;
        for id in 0..self.config.messages {
            let sent = history.sent[usize::from(id)] > 0;
            if remaining.repeats > 0 && sent && !history.removed.has(id) {
                actions.push(Action::SendAgain { id });
            }
            if remaining.removals > 0 && state.may_remove_inbox_row(id) {
                actions.push(Action::RemoveInboxRow { id });
            }
        }
        for row in &state.failed {
            let costs = [
                (Operation::Retry, remaining.actions),
                (Operation::Discard, remaining.actions),
                (Operation::Restore, remaining.actions),
                (Operation::ShowForEdit, remaining.edits),
                (Operation::SaveEdit, 1),
            ];
            let allowed = |(operation, remaining): (_, u8)| {
                (remaining > 0 && state.allows(&self.config, operation, *row))
                    .then_some(Action::Operator { operation, row: row.number })
            };
            actions.extend(costs.into_iter().filter_map(allowed));
            if remaining.removals > 0 && state.may_remove(&self.config, *row) {
                actions.push(Action::RemoveFailedMessage { row: row.number });
            }
        }
        if remaining.takeovers > 0 && !state.relays.is_empty() {
            actions.push(Action::TakeOver);
        }
        for relay in (0..).take(state.relays.len()) {
            if remaining.relay_crashes > 0 && !state.relays[usize::from(relay)].is_empty() {
                actions.push(Action::RelayCrash { relay });
            }
        }
    }
}
