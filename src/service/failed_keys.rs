//! The commands of a unit of work that failed: later ones with their keys wait, or overtake them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{OrderingKey, RetryDecision},
    ports::store::{OrderCheck, Overtaking},
};

use super::{
    envelope::Envelope, failure::decide, message_check::CheckedMessage, outcome::Step, policy::FailurePolicy,
    recording::Processed, unit_of_work::UnitOfWork,
};

/// The position of a command among those with its key: the id of its failed message. Commands without one come after all
/// others, in the order of the unit of work.
type Position = i64;

fn position(check: &OrderCheck) -> Position {
    check.own.map_or(Position::MAX, |own| own.id)
}

/// The keys of the commands that failed in a unit of work.
#[derive(Debug, Default)]
pub(super) struct FailedKeys {
    /// The position of the first command with the key that is tried again: later ones wait.
    open: HashMap<OrderingKey, Position>,
    /// Dead commands, with their indexes in the unit of work.
    dead: HashMap<OrderingKey, Vec<(usize, Position)>>,
    /// The message ids of the commands that have overtaken the dead ones.
    overtaken_by: HashMap<usize, Arc<str>>,
}

impl FailedKeys {
    /// Whether a command must wait for one that failed before it in this unit of work.
    pub(super) fn hold(&self, envelope: &Envelope, check: &OrderCheck) -> bool {
        if self.open.is_empty() || !envelope.content.keeps_order() {
            return false;
        }
        let key = envelope.content.ordering_key();
        key.and_then(|key| self.open.get(&key)).is_some_and(|first| is_after(position(check), *first))
    }

    /// Notes the result of the message at `index`.
    pub(super) fn note(
        &mut self,
        uow: &mut UnitOfWork,
        index: usize,
        checked: &CheckedMessage<'_>,
        step: &Step,
        policy: &FailurePolicy,
    ) {
        match step {
            Step::Failed(failure, _) if checked.received.is_recorded(failure) => {
                let Some(key) = checked.received.ordering_key() else { return };
                let attempts = checked.order.own.map_or(0, |own| own.attempts);
                let position = position(&checked.order);
                match decide(failure, attempts + 1, checked.generation, &policy.retry) {
                    RetryDecision::Dead(_) => self.dead.entry(key).or_default().push((index, position)),
                    RetryDecision::Retry(_) | RetryDecision::Postpone(_) => {
                        let first = self.open.entry(key).or_insert(position);
                        *first = position.min(*first);
                    }
                    // What it waits for holds up later ones, too.
                    RetryDecision::Wait => {}
                }
            }
            Step::Handled(_) => self.note_handled(uow, checked),
            Step::Done(_) | Step::Failed(..) | Step::CopyOf(_) => {}
        }
    }

    fn note_handled(&mut self, uow: &mut UnitOfWork, checked: &CheckedMessage<'_>) {
        let OrderCheck { own, overtakes, .. } = checked.order;
        if own.is_none() && !overtakes && self.dead.is_empty() {
            return; // As nearly always, nothing has failed.
        }
        let Ok(envelope) = &checked.received.decoded else { return };
        let Some(key) = envelope.content.ordering_key() else { return };
        let message_id = &envelope.key.message_id;
        if envelope.content.keeps_order() {
            for (dead, of_dead) in self.dead.get(&key).into_iter().flatten() {
                if is_after(position(&checked.order), *of_dead) {
                    self.overtaken_by.insert(*dead, message_id.clone());
                }
            }
            if overtakes {
                let own = own.map(|own| own.id);
                uow.overtake(Overtaking { key: key.clone(), message_id: message_id.clone(), own });
            }
        }
        if own.is_some() {
            uow.release(key);
        }
    }

    /// Sets by which commands the dead ones have been overtaken.
    pub(super) fn mark_overtaken(&self, processed: &mut [Processed<'_>]) {
        for (index, message_id) in &self.overtaken_by {
            processed[*index].overtaken_by = Some(message_id.clone());
        }
    }
}

/// Whether a command comes after one that is before it in the unit of work.
fn is_after(position: Position, other: Position) -> bool {
    position == Position::MAX || position > other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_a_failed_message_comes_after_all_before_it_in_the_unit_of_work() {
        for (position, other, expected) in [
            (2, 1, true),
            (1, 2, false),
            (1, 1, false),
            (Position::MAX, 1, true),
            (Position::MAX, Position::MAX, true),
        ] {
            assert_eq!(is_after(position, other), expected, "{position} after {other}");
        }
    }
}
