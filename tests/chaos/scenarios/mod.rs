//! One scenario per fault. Each adds exact expectations to the general checks.

mod alerts;
mod broker_faults;
mod database_faults;
mod database_refusals;
mod envelopes;
mod frozen_servers;
mod interference;
mod liveness;
mod messages;
mod operator;
mod order;
mod processes;
mod publication;
mod relay_crashes;
mod retry_crashes;
mod seeded;
mod worker_crashes;

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use crate::{check_report::CheckReport, cluster::Cluster, output::print_line};

pub(crate) use broker_faults::QUEUES_ON_DISK_AFTER;
pub(crate) use relay_crashes::{kill_leader, leader};

/// A fault and its test.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Its numbers in the fault plan.
    pub(crate) plan: &'static str,
    pub(crate) injects: &'static str,
    pub(crate) run: for<'a> fn(&'a Cluster) -> LocalBoxFuture<'a, anyhow::Result<CheckReport>>,
}

macro_rules! scenarios {
    ($($module:ident::$name:ident, $plan:literal, $injects:literal;)*) => {
        /// All scenarios, in the order of a full run.
        pub(crate) const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            plan: $plan,
            injects: $injects,
            run: |cluster| $module::$name(cluster).boxed_local(),
        },)*];
    };
}

scenarios! {
    worker_crashes::killed_before_begin, "1", "SIGKILL after the delivery";
    worker_crashes::killed_in_transaction, "1", "SIGKILL after BEGIN";
    worker_crashes::killed_after_inbox_write, "2", "SIGKILL after the inbox was written";
    worker_crashes::killed_mid_handler, "3", "SIGKILL in the handler";
    worker_crashes::killed_mid_write, "3", "SIGKILL between two writes";
    worker_crashes::killed_before_commit, "4", "SIGKILL before COMMIT";
    worker_crashes::killed_after_commit, "7", "SIGKILL after COMMIT";
    worker_crashes::killed_before_acknowledgement, "7", "SIGKILL before the acknowledgement";
    worker_crashes::killed_before_failure_commit, "9", "SIGKILL before a failure is committed";
    worker_crashes::killed_after_failure_commit, "9", "SIGKILL after a failure is committed";
    worker_crashes::archive_killed_before_recording, "10", "SIGKILL before a dead letter is recorded";
    worker_crashes::archive_killed_after_recording, "10", "SIGKILL after a dead letter is recorded";
    interference::poison_message, "38", "a message that kills its worker";
    interference::duplicates, "28", "each message up to fifty times, three workers";
    interference::handler_timeouts, "26", "a handler timeout of 1 ms";
    relay_crashes::relay_killed_after_reading, "11", "SIGKILL of the relay before it publishes";
    relay_crashes::relay_killed_before_confirms, "11", "SIGKILL of the relay before confirms";
    relay_crashes::relay_killed_before_removal, "11", "SIGKILL of the relay before the removal";
    relay_crashes::relay_killed_after_removal, "11", "SIGKILL of the relay after the removal";
    relay_crashes::leaders_killed, "12", "three relays, SIGKILL of the leader";
    relay_crashes::sender_killed_before_confirms, "11", "SIGKILL of `allocation send`";
    retry_crashes::relay_killed_before_retry, "9", "SIGKILL of the relay before it publishes a retry";
    retry_crashes::relay_killed_before_retry_confirmed, "9", "SIGKILL of the relay before a retry's confirm";
    retry_crashes::relay_killed_before_retry_marked, "9", "SIGKILL of the relay before a retry is marked";
    retry_crashes::relay_killed_after_retry_marked, "9", "SIGKILL of the relay after a retry is marked";
    publication::confirm_lost, "11", "RST before the broker's confirm";
    publication::publication_cut_mid_frame, "16", "RST within the body of an event";
    publication::acknowledgement_lost, "8", "RST before the worker's acknowledgement";
    publication::cut_after_confirm, "11", "RST after the broker's confirm";
    publication::cut_after_acknowledgement, "8", "RST after the worker's acknowledgement";
    publication::subscriber_queue_full, "39", "a full subscriber queue that rejects events";
    publication::unroutable_events, "39", "events without a bound queue";
    database_faults::commit_reply_lost, "5", "RST before the reply to COMMIT";
    database_faults::commit_lost, "6", "RST before COMMIT";
    database_faults::statements_cut, "5, 6", "RST after a number of bytes to PostgreSQL, five times";
    database_faults::backends_killed, "21", "SIGKILL of a backend, ten times";
    database_faults::postmaster_killed, "21", "SIGKILL of the postmaster";
    database_faults::database_down, "22", "PostgreSQL stopped for 10 s";
    frozen_servers::database_frozen_then_restored, "23", "connections to PostgreSQL frozen, then restored";
    frozen_servers::database_frozen_then_disconnected, "23", "connections to PostgreSQL frozen, then reset";
    frozen_servers::connections_refused, "17, 22", "both servers refuse connections";
    frozen_servers::broker_frozen, "17", "a frozen connection to RabbitMQ";
    frozen_servers::consumer_timeout, "19", "acknowledgements after the consumer timeout";
    database_refusals::connections_exhausted, "24", "one connection for the role";
    database_refusals::deadlock, "25", "a deadlock with another session";
    database_refusals::serialization_failure, "25", "SQLSTATE 40001, three times";
    database_refusals::disk_full, "27", "SQLSTATE 53100";
    database_refusals::standby_lost, "5, 22", "an unavailable synchronous standby";
    database_refusals::large_error_text, "37", "an error of 1.4 MB";
    database_refusals::database_login_revoked, "46", "a database role without the right to log in";
    broker_faults::broker_restarted, "14", "the broker's application stops and starts";
    broker_faults::broker_killed, "15", "SIGKILL of the broker";
    broker_faults::connections_closed, "18", "the broker closes all connections";
    broker_faults::queue_deleted, "18", "a queue deleted under its consumer";
    broker_faults::broker_resource_alarm, "20", "a disk alarm";
    broker_faults::stopped_during_alarm, "20", "SIGTERM during a disk alarm";
    alerts::alerts_during_alarm, "20", "a disk alarm beside Prometheus";
    broker_faults::read_permission_revoked, "46", "a user without the permission to read";
    broker_faults::broker_login_revoked, "46", "a broker user whose password changes";
    broker_faults::publish_permission_revoked, "46", "a broker user without the right to publish events";
    operator::retry_killed_before_commit, "40", "SIGKILL of an operator's retry before COMMIT";
    operator::retry_killed_after_commit, "40", "SIGKILL of an operator's retry after COMMIT";
    operator::concurrent_and_late_retries, "40", "the same retry twice at once, and a retry of a handled message";
    operator::dead_letter_retry_fails_again, "41", "a retry of a message dead-lettered by the broker, which fails again";
    operator::retries_without_a_queue, "39, 42", "forty retries whose queue is deleted";
    processes::worker_suspended_and_resumed, "13", "SIGSTOP of a worker until redelivery, SIGCONT";
    processes::rolling_restarts, "47", "SIGTERM under load, ten times";
    order::graceful_restarts_preserve_order, "47", "1,500 pairs, SIGTERM twenty times, five outages";
    processes::second_signal, "47", "a second SIGTERM";
    processes::concurrent_migrations, "48", "three migrations at once, and a newer schema";
    processes::file_descriptors_exhausted, "49", "no free file descriptor";
    messages::message_id_with_different_body, "29", "a message id with a second body";
    messages::malformed_bodies, "31", "bodies that are not JSON";
    messages::extreme_values, "32", "JSON at and beyond its limits";
    messages::large_messages, "33", "bodies and headers at and beyond the limits";
    messages::code_in_values, "44", "SQL and HTML in values";
    envelopes::invalid_message_ids, "30", "ids that are missing, empty, long or not printable";
    envelopes::unsupported_content, "34", "unsupported content types and encodings";
    envelopes::unknown_command_types, "35", "unknown command types";
    envelopes::forged_headers, "36", "headers that only brokers set";
    seeded::seeded_bugs, "", "seeded bugs in the program";
}

/// Parts of the fault plan that are not covered or reduced here, and where else they are tested.
const LEFT_OUT: [(&str, &str); 14] = [
    (
        "18 (a channel closed alone)",
        "the broker does that in consumer_timeout and publish_permission_revoked; no test closes one without a cause",
    ),
    ("21 (a hundred crashes)", "ten backends and one postmaster, and those of the soak: ten in CI"),
    ("22 (60 s without PostgreSQL)", "10 s; every delay reaches its maximum within that time"),
    (
        "26 (timeouts from 0 to 1 ms, in every statement)",
        "1 ms, in handlers that read; the timeout does not cover BEGIN and COMMIT",
    ),
    (
        "37 (panics with secrets or HTML)",
        "tests/it/faults.rs has a panic with plain text; secrets and HTML are not tested",
    ),
    ("38 (abort, panic, a handler that hangs)", "tests/it/faults.rs has them"),
    (
        "38 (stack overflow, busy loop, blocking sleep, out of memory)",
        "not tested; SIGKILL and abort represent those that end the process",
    ),
    ("39 (a full work queue, the dead-letter exchange deleted)", "not tested"),
    ("40 (10,000 retries)", "forty at once in tests/it/failed_messages.rs and in retries_without_a_queue"),
    (
        "43 (HTTP: tokens, hosts, methods, sizes, slow clients)",
        "tests/it/http.rs has them; forged origins are not tested",
    ),
    (
        "45 (jumps of the clock)",
        "not tested, requires libfaketime; due times use the database clock, durations are measured",
    ),
    ("46 (the virtual host deleted)", "not tested"),
    ("47 (fifty stops under load)", "ten, and those of the soak"),
    ("49 (limits of threads and processes)", "not tested; file descriptors are"),
];

/// Lists every scenario.
pub(crate) fn list() {
    for Scenario { name, plan, injects, .. } in ALL {
        print_line(&format!("{name:38} {plan:8} {injects}"));
    }
    print_line(&format!("{:38} {:8} {}", "soak", "50", crate::soak::INJECTED));
    print_line(&format!("{:38} {:8} {}", "soak_operators", "40, 50", crate::operators::INJECTED));
    print_line("\nNot covered:");
    for (what, why) in LEFT_OUT {
        print_line(&format!("{what}: {why}"));
    }
}
