//! An exhaustive check of the protocol between sender, queue, workers, database, relays, operators and subscriber.
//!
//! `model` lists the possible steps: those that the program takes by itself, and disturbances (crash, orderly stop,
//! outage, lost connection, lost reply, operator, retention, unresponsive leader). A check visits every interleaving
//! of them up to the limits of its configuration, and `properties` states what must hold in each state. The other
//! modules describe one component each and list what they leave out.
//!
//! A test `…_is_found` adds a fault to the program and expects the violation. It prints the shortest trace. Run with
//! `--no-capture` (nextest) or `--nocapture` (cargo test) to see sizes and traces.

mod broker;
mod config;
mod display;
mod failed_messages;
mod model;
mod properties;
mod relay;
mod report;
mod state;
mod steps;
mod unit_of_work;
mod worker;

use config::{Budget, Config, Fault};

const NONE: Budget = Config::SMALLEST.budget;

/// Commands of one line, one active worker and one on standby.
const ORDER: Config = Config {
    name: "order",
    messages: 2,
    workers: 2,
    single_active_consumer: true,
    max_batch: 2,
    budget: Budget {
        repeats: 1,
        crashes: 1,
        stops: 1,
        outages: 1,
        lost_connections: 1,
        lost_replies: 1,
        ..NONE
    },
    ..Config::SMALLEST
};

/// One failing message: two workers, copies of several generations, operators.
const RETRY: Config = Config {
    name: "retry and discard",
    workers: 2,
    prefetch: 1,
    max_attempts: 2,
    relays: 1,
    budget: Budget { repeats: 1, rejections: 2, crashes: 1, actions: 2, ..NONE },
    ..Config::SMALLEST
};

/// Three commands with one key, of which some are retried, one active worker and one on standby.
const KEY_ORDER: Config = Config {
    name: "key order",
    messages: 3,
    workers: 2,
    single_active_consumer: true,
    one_key: true,
    max_batch: 2,
    max_attempts: 2,
    relays: 1,
    budget: Budget { rejections: 2, actions: 1, ..NONE },
    ..Config::SMALLEST
};

/// Two commands with one key, with crashes.
const KEY_ORDER_OF_TWO: Config = Config {
    name: "key order of two",
    messages: 2,
    budget: Budget { rejections: 2, crashes: 1, lost_replies: 1, actions: 1, ..NONE },
    ..KEY_ORDER
};

/// One failing message: one worker, an editor, retention.
const EDIT: Config = Config {
    name: "edit and retention",
    workers: 1,
    prefetch: 2,
    budget: Budget { repeats: 1, rejections: 2, lost_replies: 1, actions: 1, edits: 2, removals: 2, ..NONE },
    ..RETRY
};

/// Two valid messages and one worker that stops more often than a message may be started.
const STARTS: Config = Config {
    name: "starts",
    messages: 2,
    single_active_consumer: true,
    max_batch: 2,
    budget: Budget { crashes: 5, stops: 2, outages: 2, lost_connections: 1, lost_replies: 1, ..NONE },
    ..Config::SMALLEST
};

/// One valid message in two workers, one of which may have lost its connection.
const STARTS_OF_TWO: Config = Config {
    name: "starts in two workers",
    workers: 2,
    budget: Budget { crashes: 5, stops: 1, outages: 1, lost_connections: 1, lost_replies: 1, ..NONE },
    ..Config::SMALLEST
};

/// A message that crashes its worker, between two valid ones.
const POISON: Config = Config {
    name: "poison",
    messages: 3,
    single_active_consumer: true,
    max_batch: 2,
    prefetch: 3,
    poison: Some(1),
    budget: Budget { stops: 1, outages: 1, lost_connections: 1, lost_replies: 1, ..NONE },
    ..Config::SMALLEST
};

/// Events of one SKU, and a leader that crashes, or is unresponsive and continues.
const RELAY: Config = Config {
    name: "relay",
    messages: 3,
    single_active_consumer: true,
    relays: 2,
    budget: Budget { takeovers: 3, relay_crashes: 1, ..NONE },
    ..Config::SMALLEST
};

/// All components, with two messages.
const COMBINED: Config = Config {
    name: "combined, two messages",
    messages: 2,
    workers: 2,
    single_active_consumer: true,
    relays: 2,
    budget: Budget { rejections: 1, crashes: 1, stops: 1, actions: 1, takeovers: 1, ..NONE },
    ..Config::SMALLEST
};

/// All components, with one message that is sent twice to two workers.
const COMBINED_REPEATED: Config = Config {
    name: "combined, one message twice",
    workers: 2,
    prefetch: 1,
    relays: 2,
    budget: Budget {
        repeats: 1,
        rejections: 1,
        crashes: 1,
        outages: 1,
        actions: 1,
        removals: 1,
        takeovers: 1,
        ..NONE
    },
    ..Config::SMALLEST
};

#[test]
fn commands_of_one_line_stay_in_order_through_crashes_stops_and_outages() {
    report::assert_holds(ORDER);
}

#[test]
fn a_failed_message_is_neither_lost_nor_handled_twice_nor_handled_after_a_discard() {
    report::assert_holds(RETRY);
}

#[test]
fn commands_of_one_key_take_effect_in_order_although_some_are_retried() {
    report::assert_holds(KEY_ORDER);
    report::assert_holds(KEY_ORDER_OF_TWO);
}

#[test]
fn a_message_that_is_not_released_is_found() {
    let property = "every message ends in an effect or a visible failed message";
    report::assert_finds(KEY_ORDER, Fault::NothingIsReleased, property);
}

#[test]
fn a_command_that_does_not_wait_is_found() {
    report::assert_finds(KEY_ORDER, Fault::NothingWaits, "commands of one key take effect in order");
}

#[test]
fn a_retry_of_an_overtaken_message_is_found() {
    report::assert_finds(KEY_ORDER, Fault::OvertakenIsRetried, "commands of one key take effect in order");
}

#[test]
fn an_edited_message_and_retention_lose_nothing() {
    report::assert_holds(EDIT);
}

#[test]
fn only_crashes_leave_unfinished_starts() {
    report::assert_holds(STARTS);
    report::assert_holds(STARTS_OF_TWO);
}

#[test]
fn a_message_that_crashes_its_worker_is_dead_lettered_and_its_neighbours_are_handled() {
    report::assert_holds(POISON);
}

#[test]
fn events_of_one_sku_arrive_in_order_although_a_stale_leader_publishes() {
    report::assert_holds(RELAY);
}

/// A stale leader removes only events that the broker confirmed to it. Even with a session it would lose no event.
#[test]
fn a_stale_leader_that_removes_its_confirmed_rows_loses_no_event() {
    report::assert_holds(RELAY.with(Fault::StaleLeaderRemoves));
}

#[test]
fn all_components_together_keep_all_properties() {
    report::assert_holds(COMBINED);
}

#[test]
fn all_components_together_keep_all_properties_of_a_message_sent_twice() {
    report::assert_holds(COMBINED_REPEATED);
}

#[test]
fn a_return_in_a_different_order_is_found() {
    let config = Config { budget: Budget { stops: 1, ..NONE }, ..ORDER };
    report::assert_finds(config, Fault::ReturnInDifferentOrder, "commands of one line take effect in order");
}

/// The broker appends returned messages to those returned before. A subscription must receive all of them.
#[test]
fn a_smaller_prefetch_after_a_return_is_found() {
    let config = Config { budget: Budget { stops: 2, ..NONE }, ..ORDER };
    report::assert_finds(
        config,
        Fault::SmallerPrefetchAfterReturn,
        "commands of one line take effect in order",
    );
}

#[test]
fn an_old_row_that_drops_a_redelivered_message_is_found() {
    let property = "a message sent again after a discard is handled or recorded";
    report::assert_finds(RETRY, Fault::OldRowDropsMessage, property);
}

#[test]
fn starts_not_reverted_by_an_orderly_stop_are_found() {
    let config = Config { budget: Budget { stops: 1, outages: 5, ..NONE }, ..STARTS_OF_TWO };
    report::assert_finds(
        config,
        Fault::StartsNotReverted,
        "no message is dead as crash_loop without as many crashes",
    );
}

/// A limit of the protocol: starts cannot be reverted while the database is unavailable. A worker that returns its
/// messages must therefore revert them later; a worker that stops cannot.
#[test]
fn a_stop_without_the_database_counts_as_a_crash() {
    let config = Config { budget: Budget { outages: 5, ..NONE }, ..STARTS_OF_TWO };
    report::assert_finds(
        config,
        Fault::StopWithoutDatabase,
        "no message is dead as crash_loop without as many crashes",
    );
}

#[test]
fn a_copy_without_generation_fence_is_found() {
    report::assert_finds(RETRY, Fault::NoGenerationFence, "a discarded message has no effect");
}

#[test]
fn a_fenced_copy_in_the_inbox_is_found() {
    report::assert_finds(RETRY, Fault::FencedCopyEntersInbox, "the inbox has handled messages only");
}

#[test]
fn a_mark_of_another_generation_is_found() {
    report::assert_finds(
        RETRY,
        Fault::RelayMarksAnyGeneration,
        "a published retry is in the queue until it ends",
    );
}

#[test]
fn a_leader_that_skips_claimed_rows_is_found() {
    report::assert_finds(
        RELAY,
        Fault::ClaimedRowsAreSkipped,
        "events arrive in order, each after its predecessor",
    );
}

#[test]
fn a_row_removed_before_its_confirm_is_found() {
    report::assert_finds(
        RELAY,
        Fault::RemovedBeforeConfirmed,
        "events arrive in order, each after its predecessor",
    );
}

/// Retention must be longer than a copy may be outstanding.
#[test]
fn a_row_removed_while_a_copy_is_on_its_way_is_found() {
    report::assert_finds(EDIT, Fault::RetentionIgnoresCopies, "a message takes effect once");
}
