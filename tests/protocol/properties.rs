//! What must hold in every state, and what must be reachable for the check to be meaningful.

use stateright::Property;

use crate::{
    config::{Budget, Config},
    model::Protocol,
    state::{Message, Set, State, Status},
    worker::DEAD_AFTER_STARTS,
};

/// The properties of a configuration.
pub(crate) fn all(config: &Config) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::always("no message is lost", |_, state| no_message_is_lost(state)),
        Property::always("a published retry is in the queue until it ends", |_, state: &State| {
            retries_are_in_the_queue(state)
        }),
        Property::always("every message ends in an effect or a visible failed message", |model, state| {
            every_message_has_an_outcome(model, state)
        }),
        Property::always("the inbox has handled messages only", |_, state: &State| {
            let handled = |(id, row): (u8, &Option<_>)| row.is_none() || state.effects.contains(&id);
            (0..).zip(&state.inbox).all(handled)
        }),
        Property::always("a message takes effect once", |_, state: &State| {
            (1..state.effects.len()).all(|index| !state.effects[..index].contains(&state.effects[index]))
        }),
        Property::always(
            "a message sent again after a discard is handled or recorded",
            |_, state: &State| !state.history.dropped_after_discard,
        ),
        Property::always("a discarded message has no effect", |_, state: &State| {
            state.history.discarded.members().all(|id| !state.effects.contains(&id))
        }),
        Property::always("a discarded message stays discarded", |_, state| {
            discarded_messages_stay_discarded(state)
        }),
        Property::always("no message is dead as crash_loop without as many crashes", |_, state: &State| {
            !state.history.unjustified_crash_loop
        }),
    ];
    if config.relays > 0 {
        properties.push(Property::always(
            "events arrive in order, each after its predecessor",
            |_, state: &State| is_prefix(state.arrived),
        ));
    }
    if config.single_active_consumer {
        properties.push(Property::always("commands of one line take effect in order", commands_in_order));
    }
    if config.one_key {
        properties.extend(key_order());
    }
    if config.poison.is_some() && config.budget.crashes == 0 {
        properties
            .push(Property::always("only the message that crashes its worker is dead", only_poison_is_dead));
    }
    properties.extend(reachable(config));
    properties
}

/// A redelivery of a discarded message cannot be distinguished from a message that was sent again: it is handled.
fn key_order() -> [Property<Protocol>; 3] {
    [
        Property::always("commands of one key take effect in order", |_, state: &State| {
            state.effects.is_sorted() || !state.history.redelivered_after_discard.is_empty()
        }),
        Property::sometimes("a command waits and is handled", |_, state: &State| {
            state.failed.iter().any(|row| row.id > 0 && row.status == Status::Resolved)
        }),
        Property::sometimes("a dead message is overtaken", |_, state: &State| {
            state.failed.iter().any(|row| row.overtaken && row.status == Status::Dead)
        }),
    ]
}

/// Situations that a configuration must contain; otherwise the check says nothing about them.
fn reachable(config: &Config) -> Vec<Property<Protocol>> {
    let Budget { repeats, actions, rejections, crashes, .. } = config.budget;
    let mut properties = Vec::new();
    if repeats > 0 && actions > 0 && rejections > 0 {
        properties.push(Property::sometimes(
            "a discarded message is sent again and handled",
            |_, state: &State| !state.history.handled_after_discard.is_empty(),
        ));
    }
    if config.poison.is_some() || crashes > DEAD_AFTER_STARTS {
        properties.push(Property::sometimes("a message is dead as crash_loop", |_, state: &State| {
            !state.history.crash_loop.is_empty()
        }));
    }
    if config.relays > 0 && rejections > 1 && actions > 1 {
        properties.push(Property::sometimes("two copies of one generation exist", |_, state: &State| {
            let copies: Vec<_> = state.outstanding().filter_map(|message| message.marker).collect();
            (1..copies.len()).any(|index| copies[..index].contains(&copies[index]))
        }));
    }
    properties
}

/// A message that was sent is in the queue, handled, or a failed message. A delivery that ended left one of the latter.
fn no_message_is_lost(state: &State) -> bool {
    let exists = |id: u8| {
        (state.inbox[usize::from(id)].is_some() && state.effects.contains(&id))
            || state.failed.iter().any(|row| row.id == id)
            || state.history.removed.has(id)
            || state.outstanding().any(|message| message.id == id && message.marker.is_none())
    };
    !state.history.dropped && (0..).zip(state.history.sent).all(|(id, sent)| sent == 0 || exists(id))
}

/// The relay publishes a retry again only if its row is not marked as published.
fn retries_are_in_the_queue(state: &State) -> bool {
    state.failed.iter().all(|row| {
        let is_copy = |message: &Message| {
            message
                .marker
                .is_some_and(|marker| marker.row == row.number && marker.generation == row.generation)
        };
        row.status != Status::Retrying || !row.published || state.outstanding().any(is_copy)
    })
}

/// When no progress step is possible, no work is left.
fn every_message_has_an_outcome(model: &Protocol, state: &State) -> bool {
    if model.can_progress(state) {
        return true;
    }
    let retries_wait = |status| status == Status::Retrying && model.config.relays == 0;
    let visible = |id: u8| {
        state.effects.contains(&id)
            || state.history.removed.has(id)
            || state.failed.iter().any(|row| {
                row.id == id
                    && (matches!(row.status, Status::Dead | Status::Discarded) || retries_wait(row.status))
            })
    };
    let committed = u8::try_from((1_u16 << state.effects.len()) - 1).expect("there are few messages");
    state.queue.is_empty()
        && state.workers.iter().all(|worker| worker.held.is_empty())
        && (model.config.relays == 0 || state.arrived == Set(committed))
        && (0..).zip(state.history.sent).all(|(id, sent)| sent == 0 || visible(id))
}

fn discarded_messages_stay_discarded(state: &State) -> bool {
    state
        .history
        .discarded
        .members()
        .all(|id| state.failed.iter().any(|row| row.id == id && row.status == Status::Discarded))
}

fn is_prefix(set: Set) -> bool {
    set.0 & set.0.wrapping_add(1) == 0
}

/// Message 0 allocates a line, the last message deallocates it. If the second is handled and neither has failed, the
/// first was handled before it: the line is not left allocated.
fn commands_in_order(model: &Protocol, state: &State) -> bool {
    let (allocate, deallocate) = (0, model.config.messages - 1);
    let position = |id| state.effects.iter().position(|&effect| effect == id);
    match (position(allocate), position(deallocate)) {
        _ if state.history.failed.has(allocate) || state.history.failed.has(deallocate) => true,
        (Some(first), Some(second)) => first < second,
        (None, Some(_)) => false,
        (_, None) => true,
    }
}

fn only_poison_is_dead(model: &Protocol, state: &State) -> bool {
    state.failed.iter().all(|row| row.status != Status::Dead || model.config.poison == Some(row.id))
}
