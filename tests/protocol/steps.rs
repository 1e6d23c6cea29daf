//! The effect of each step on the state.

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
                state.remaining.repeats -= 1;
                publish(state, id);
            }
            Action::Relay { relay, step } => state.relay_step(config, relay, step),
            Action::TakeOver => {
                state.remaining.takeovers -= 1;
                state.take_over();
            }
            Action::RelayCrash { relay } => {
                state.remaining.relay_crashes -= 1;
                state.relays[usize::from(relay)] = Relay::default();
            }
            Action::Operator { operation, row } => {
                match operation {
                    Operation::ShowForEdit => state.remaining.edits -= 1,
                    Operation::SaveEdit => {}
                    _ => state.remaining.actions -= 1,
                }
                let index = state.failed.iter().position(|exists| exists.number == row);
                state.operate(config, operation, index.expect("the row existed when the action was chosen"));
            }
            Action::RemoveInboxRow { id } => {
                state.remaining.removals -= 1;
                state.remove_inbox_row(id);
            }
            Action::RemoveFailedMessage { row } => {
                state.remaining.removals -= 1;
                let index = state.failed.iter().position(|exists| exists.number == row);
                state.remove_row(index.expect("the row existed when the action was chosen"));
            }
            worker_action => self.apply_to_worker(state, worker_action),
        }
    }

    fn apply_to_worker(&self, state: &mut State, action: Action) {
        let config = &self.config;
        match action {
            Action::Subscribe { worker } => state.subscribe(config, worker),
            Action::Deliver { worker } => state.deliver(worker),
            Action::RecordStarts { worker } => state.record_starts(config, worker),
            Action::HandleAndCommit { worker, rejected } => self.handle(state, worker, rejected, true),
            Action::CommitReplyLost { worker, rejected } => {
                state.remaining.lost_replies -= 1;
                self.handle(state, worker, rejected, false);
            }
            Action::Acknowledge { worker } => state.acknowledge(worker),
            Action::DatabaseUnavailable { worker } => {
                state.remaining.outages -= 1;
                state.workers[usize::from(worker)].phase = Phase::Waiting;
            }
            Action::TryAgain { worker } => state.workers[usize::from(worker)].phase = Phase::Working,
            Action::ReturnMessages { worker } => state.begin_stop(config, worker),
            Action::Stop { worker } => {
                state.remaining.stops -= 1;
                state.begin_stop(config, worker);
            }
            Action::RevertStarts { worker } => state.revert_starts(worker),
            Action::Close { worker } => state.close(config, worker),
            Action::ConnectionLost { worker } => {
                state.remaining.lost_connections -= 1;
                state.lose_connection(worker);
            }
            Action::Crash { worker } => {
                state.remaining.crashes -= 1;
                state.crash(worker);
            }
            Action::CrashedByMessage { worker } => state.crash(worker),
            other => unreachable!("{other:?} is not a step of a worker"),
        }
    }

    fn handle(&self, state: &mut State, worker: u8, rejected: Set, reply: bool) {
        state.remaining.rejections -= u8::try_from(rejected.members().count()).expect("a group is small");
        state.handle(&self.config, worker, rejected, reply);
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
