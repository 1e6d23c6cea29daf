//! What each step does to the state.

use crate::{
    failed_messages::Operation,
    model::{Action, Protocol},
    relay::Relay,
    state::{Body, Message, Set, State, Status},
    worker::Phase,
};

impl Protocol {
    pub(crate) fn apply(&self, state: &mut State, action: Action) {
        let config = &self.config;
        match action {
            Action::Send { id } => publish(state, id),
            Action::SendAgain { id } => {
                state.left.repeats -= 1;
                publish(state, id);
            }
            Action::Relay { relay, step } => state.relay_step(config, relay, step),
            Action::TakeOver => {
                state.left.takeovers -= 1;
                state.take_over();
            }
            Action::RelayCrash { relay } => {
                state.left.relay_crashes -= 1;
                state.relays[usize::from(relay)] = Relay::default();
            }
            Action::Operator { operation, row } => {
                match operation {
                    Operation::ShowForEdit => state.left.edits -= 1,
                    Operation::SaveEdit => {}
                    _ => state.left.actions -= 1,
                }
                let place = state.failed.iter().position(|known| known.number == row);
                state.operate(operation, place.expect("the row was there when the action was chosen"));
            }
            Action::RemoveInboxRow { id } => {
                state.left.removals -= 1;
                state.forget(id);
            }
            Action::RemoveFailedMessage { row } => {
                state.left.removals -= 1;
                let place = state.failed.iter().position(|known| known.number == row);
                state.remove_row(place.expect("the row was there when the action was chosen"));
            }
            of_worker => self.apply_to_worker(state, of_worker),
        }
    }

    fn apply_to_worker(&self, state: &mut State, action: Action) {
        let config = &self.config;
        match action {
            Action::Subscribe { worker } => state.subscribe(config, worker),
            Action::Deliver { worker } => state.deliver(worker),
            Action::CountStarts { worker } => state.count_starts(config, worker),
            Action::HandleAndCommit { worker, rejected } => self.handle(state, worker, rejected, true),
            Action::CommitWithoutAnswer { worker, rejected } => {
                state.left.lost_answers -= 1;
                self.handle(state, worker, rejected, false);
            }
            Action::Acknowledge { worker } => state.acknowledge(worker),
            Action::DatabaseUnavailable { worker } => {
                state.left.outages -= 1;
                state.workers[usize::from(worker)].phase = Phase::Waiting;
            }
            Action::TryAgain { worker } => state.workers[usize::from(worker)].phase = Phase::Working,
            Action::HandBack { worker } => state.begin_to_end(config, worker),
            Action::Stop { worker } => {
                state.left.stops -= 1;
                state.begin_to_end(config, worker);
            }
            Action::TakeBackStarts { worker } => state.take_back_starts(worker),
            Action::Close { worker } => state.close(config, worker),
            Action::ConnectionLost { worker } => {
                state.left.cuts -= 1;
                state.cut(worker);
            }
            Action::Crash { worker } => {
                state.left.crashes -= 1;
                state.crash(worker);
            }
            Action::KilledByMessage { worker } => state.crash(worker),
            other => unreachable!("{other:?} is no step of a worker"),
        }
    }

    fn handle(&self, state: &mut State, worker: u8, rejected: Set, answer: bool) {
        state.left.rejections -= u8::try_from(rejected.members().count()).expect("a group is small");
        state.handle(&self.config, worker, rejected, answer);
    }
}

fn publish(state: &mut State, id: u8) {
    state.history.sent[usize::from(id)] += 1;
    state.history.discarded.remove(id);
    if state.failed.iter().any(|row| row.id == id && row.status == Status::Discarded) {
        state.history.sent_after_discard.add(id);
    }
    state.queue.publish(Message { id, body: Body::Sent, marker: None, redelivered: false });
}
