//! The model: which steps are possible in a state, and what each of them does.
//!
//! Progress steps are what the program does by itself; they end after a finite number. All other steps are disturbances
//! and are limited by the budget.

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
    CountStarts { worker: u8 },
    HandleAndCommit { worker: u8, rejected: Set },
    CommitWithoutAnswer { worker: u8, rejected: Set },
    Acknowledge { worker: u8 },
    DatabaseUnavailable { worker: u8 },
    TryAgain { worker: u8 },
    HandBack { worker: u8 },
    Stop { worker: u8 },
    TakeBackStarts { worker: u8 },
    Close { worker: u8 },
    ConnectionLost { worker: u8 },
    Crash { worker: u8 },
    KilledByMessage { worker: u8 },

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
            left: self.config.budget,
            history: History::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        for worker in 0..self.config.workers {
            self.disturb_worker(state, worker, actions);
        }
        self.disturb_others(state, actions);
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
    /// What happens without any disturbance.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        let next = state.history.sent.iter().position(|&sent| sent == 0).unwrap_or(MESSAGES);
        if next < usize::from(self.config.messages) {
            actions.push(Action::Send { id: u8::try_from(next).expect("there are few messages") });
        }
        for worker in 0..self.config.workers {
            self.progress_of_worker(state, worker, actions);
        }
        let mut steps = Vec::new();
        for relay in (0..).take(state.relays.len()) {
            state.relay_steps(&self.config, relay, &mut steps);
            actions.extend(steps.drain(..).map(|step| Action::Relay { relay, step }));
        }
    }

    /// Whether the program has something left to do.
    pub(crate) fn can_progress(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        (0..self.config.workers).any(|worker| {
            self.progress_of_worker(state, worker, &mut actions);
            !actions.is_empty()
        }) || {
            self.progress(state, &mut actions);
            !actions.is_empty()
        }
    }

    fn progress_of_worker(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let memory = &state.workers[usize::from(worker)];
        if memory.connected && memory.finished > 0 {
            actions.push(Action::Acknowledge { worker });
        }
        match memory.phase {
            Phase::Working => {
                self.progress_of_subscription(state, worker, actions);
                if memory.unfinished().is_empty() {
                } else if !state.uncounted(&self.config, worker).is_empty() {
                    actions.push(Action::CountStarts { worker });
                } else if self.kills(state, worker) {
                    actions.push(Action::KilledByMessage { worker });
                } else {
                    actions.push(Action::HandleAndCommit { worker, rejected: Set::default() });
                }
            }
            Phase::Waiting => actions.push(Action::TryAgain { worker }),
            Phase::Ending => {
                if !memory.counted.is_empty() {
                    actions.push(Action::TakeBackStarts { worker });
                }
                if memory.connected && memory.finished == 0 {
                    actions.push(Action::Close { worker });
                }
            }
        }
    }

    fn progress_of_subscription(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let memory = &state.workers[usize::from(worker)];
        if !memory.connected || state.queue.is_empty() {
        } else if self.config.single_active_consumer {
            if state.active.is_none() {
                actions.push(Action::Subscribe { worker });
            }
        } else if memory.held.len() < usize::from(self.config.prefetch) {
            actions.push(Action::Deliver { worker });
        }
    }

    /// Whether the next group of a worker contains the message that terminates it.
    fn kills(&self, state: &State, worker: u8) -> bool {
        let (group, isolation) = state.group(&self.config, worker);
        isolation != Isolation::GiveUp
            && group.iter().any(|message| {
                self.config.poison == Some(message.id) && state.reaches_handler(&self.config, *message)
            })
    }

    fn disturb_worker(&self, state: &State, worker: u8, actions: &mut Vec<Action>) {
        let memory = &state.workers[usize::from(worker)];
        if memory.held.is_empty() {
            return;
        }
        let left = &state.left;
        let ready = memory.phase == Phase::Working
            && !memory.unfinished().is_empty()
            && state.uncounted(&self.config, worker).is_empty()
            && !self.kills(state, worker);
        if ready {
            let rejections = self.rejections(state, worker);
            let rejected = rejections.iter().filter(|rejected| !rejected.is_empty());
            actions.extend(rejected.map(|&rejected| Action::HandleAndCommit { worker, rejected }));
            if left.lost_answers > 0 {
                let all = rejections.iter();
                actions.extend(all.map(|&rejected| Action::CommitWithoutAnswer { worker, rejected }));
            }
            if left.outages > 0 {
                actions.push(Action::DatabaseUnavailable { worker });
            }
        }
        if memory.phase == Phase::Waiting {
            actions.push(Action::HandBack { worker });
        }
        if left.stops > 0 && memory.connected && memory.phase != Phase::Ending {
            actions.push(Action::Stop { worker });
        }
        if left.cuts > 0 && memory.connected {
            actions.push(Action::ConnectionLost { worker });
        }
        if left.crashes > 0 {
            actions.push(Action::Crash { worker });
        }
    }

    /// The members of the next group that the handler may reject: every set that the budget allows.
    fn rejections(&self, state: &State, worker: u8) -> Vec<Set> {
        let (group, isolation) = state.group(&self.config, worker);
        let mut sets = vec![Set::default()];
        if isolation == Isolation::GiveUp {
            return sets;
        }
        for (place, message) in (0..).zip(group) {
            if state.reaches_handler(&self.config, *message) {
                for mut set in sets.clone() {
                    set.add(place);
                    sets.push(set);
                }
            }
        }
        sets.retain(|set| set.members().count() <= usize::from(state.left.rejections));
        sets
    }

    fn disturb_others(&self, state: &State, actions: &mut Vec<Action>) {
        let left = &state.left;
        let history = &state.history;
        for id in 0..self.config.messages {
            let sent = history.sent[usize::from(id)] > 0;
            if left.repeats > 0 && sent && !history.removed.has(id) {
                actions.push(Action::SendAgain { id });
            }
            if left.removals > 0 && state.may_forget(id) {
                actions.push(Action::RemoveInboxRow { id });
            }
        }
        for row in &state.failed {
            let costs = [
                (Operation::Retry, left.actions),
                (Operation::Discard, left.actions),
                (Operation::Restore, left.actions),
                (Operation::ShowForEdit, left.edits),
                (Operation::SaveEdit, 1),
            ];
            let allowed = |(operation, left): (_, u8)| {
                (left > 0 && state.allows(operation, *row))
                    .then_some(Action::Operator { operation, row: row.number })
            };
            actions.extend(costs.into_iter().filter_map(allowed));
            if left.removals > 0 && state.may_remove(&self.config, *row) {
                actions.push(Action::RemoveFailedMessage { row: row.number });
            }
        }
        if left.takeovers > 0 && !state.relays.is_empty() {
            actions.push(Action::TakeOver);
        }
        for relay in (0..).take(state.relays.len()) {
            if left.relay_crashes > 0 && !state.relays[usize::from(relay)].remembers_nothing() {
                actions.push(Action::RelayCrash { relay });
            }
        }
    }
}
