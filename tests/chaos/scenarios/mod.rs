//! Every single fault by its name. Each says exactly what must come of it, beyond what the checker always holds.

mod broker_faults;
mod bystanders;
mod database_faults;
mod database_refusals;
mod envelopes;
mod half_open;
mod messages;
mod operator;
mod order;
mod planted;
mod processes;
mod publication;
mod relay_deaths;
mod retry_deaths;
mod worker_deaths;

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use crate::{lab::Lab, report::say, verdict::Verdict};

pub(crate) use broker_faults::SETTLED_AFTER;
pub(crate) use relay_deaths::{kill_leader, leader};

/// A fault and what is expected of it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Its numbers in the fault plan.
    pub(crate) plan: &'static str,
    pub(crate) injects: &'static str,
    pub(crate) play: for<'a> fn(&'a Lab) -> LocalBoxFuture<'a, anyhow::Result<Verdict>>,
}

macro_rules! scenarios {
    ($($module:ident::$name:ident, $plan:literal, $injects:literal;)*) => {
        /// All of them, in the order in which they are played.
        pub(crate) const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            plan: $plan,
            injects: $injects,
            play: |lab| $module::$name(lab).boxed_local(),
        },)*];
    };
}

scenarios! {
    worker_deaths::killed_before_begin, "1", "SIGKILL after the delivery";
    worker_deaths::killed_in_a_transaction, "1", "SIGKILL after BEGIN";
    worker_deaths::killed_after_inbox, "2", "SIGKILL after the inbox was written";
    worker_deaths::killed_mid_handler, "3", "SIGKILL in the handler";
    worker_deaths::killed_mid_write, "3", "SIGKILL between two writes";
    worker_deaths::killed_before_commit, "4", "SIGKILL before COMMIT";
    worker_deaths::killed_after_commit, "7", "SIGKILL after COMMIT";
    worker_deaths::killed_before_acknowledgement, "7", "SIGKILL before the acknowledgement";
    worker_deaths::killed_before_recording_a_failure, "9", "SIGKILL before a failure is committed";
    worker_deaths::killed_after_recording_a_failure, "9", "SIGKILL after a failure is committed";
    worker_deaths::archive_killed_before_recording, "10", "SIGKILL before a dead letter is recorded";
    worker_deaths::archive_killed_after_recording, "10", "SIGKILL after a dead letter is recorded";
    bystanders::poison_message, "38", "a message that kills its worker";
    bystanders::duplicates, "28", "each message up to fifty times, three workers";
    bystanders::handlers_cut_off, "26", "handlers that may take 1 ms";
    relay_deaths::relay_killed_after_reading, "11", "SIGKILL of the relay before it publishes";
    relay_deaths::relay_killed_before_confirms, "11", "SIGKILL of the relay before confirms";
    relay_deaths::relay_killed_before_removal, "11", "SIGKILL of the relay before the removal";
    relay_deaths::relay_killed_after_removal, "11", "SIGKILL of the relay after the removal";
    relay_deaths::leaders_killed, "12", "three relays, SIGKILL of the leader";
    relay_deaths::sender_killed_before_confirms, "11", "SIGKILL of `allocation send`";
    retry_deaths::relay_killed_before_retry, "9", "SIGKILL of the relay before it publishes a retry";
    retry_deaths::relay_killed_before_retry_confirmed, "9", "SIGKILL of the relay before a retry's confirm";
    retry_deaths::relay_killed_before_retry_noted, "9", "SIGKILL of the relay before a retry is noted";
    retry_deaths::relay_killed_after_retry_noted, "9", "SIGKILL of the relay after a retry is noted";
    publication::confirm_lost, "11", "RST before the broker's confirm";
    publication::publication_torn, "16", "RST within the body of an event";
    publication::acknowledgement_lost, "8", "RST before the worker's acknowledgement";
    publication::cut_after_confirm, "11", "RST after the broker's confirm";
    publication::cut_after_acknowledgement, "8", "RST after the worker's acknowledgement";
    publication::subscriber_queue_full, "39", "a subscriber's queue refuses";
    publication::events_nobody_wants, "39", "events without any queue";
    database_faults::commit_reply_lost, "5", "RST before the answer to COMMIT";
    database_faults::commit_never_arrives, "6", "RST before COMMIT";
    database_faults::statements_torn, "5, 6", "RST after so many bytes to PostgreSQL, five times";
    database_faults::backends_killed, "21", "SIGKILL of a backend, ten times";
    database_faults::postmaster_killed, "21", "SIGKILL of the postmaster";
    database_faults::database_down, "22", "PostgreSQL away for 10 s";
    half_open::database_silent_then_back, "23", "a frozen link to PostgreSQL that thaws";
    half_open::database_silent_then_gone, "23", "a frozen link to PostgreSQL that breaks";
    half_open::newcomers_refused, "17, 22", "both servers turn everybody away";
    half_open::broker_silent, "17", "a frozen link to RabbitMQ";
    half_open::consumer_timeout, "19", "acknowledgements later than the broker waits";
    database_refusals::connections_exhausted, "24", "one connection for the role";
    database_refusals::deadlock, "25", "a deadlock with another session";
    database_refusals::serialization_failure, "25", "SQLSTATE 40001, three times";
    database_refusals::disk_full, "27", "SQLSTATE 53100";
    database_refusals::standby_lost, "5, 22", "a synchronous standby that is lost";
    database_refusals::huge_error_text, "37", "an error of 1.4 MB";
    database_refusals::role_locked_out, "46", "a role that may not log in any more";
    broker_faults::broker_restarted, "14", "the broker's application stops and starts";
    broker_faults::broker_killed, "15", "SIGKILL of the broker";
    broker_faults::connections_closed, "18", "the broker closes all connections";
    broker_faults::queue_deleted, "18", "a queue deleted under its consumer";
    broker_faults::broker_in_alarm, "20", "a disk alarm";
    broker_faults::user_locked_out, "46", "a user whose password is changed";
    broker_faults::permission_revoked, "46", "a user that may not publish events any more";
    operator::retry_killed_before_commit, "40", "SIGKILL of an operator's retry before COMMIT";
    operator::retry_killed_after_commit, "40", "SIGKILL of an operator's retry after COMMIT";
    operator::retried_twice_and_when_handled, "40", "the same retry twice, and once too late";
    operator::retried_and_delayed, "41", "a retry of what the broker put aside, which fails once more";
    operator::retries_without_a_queue, "39, 42", "forty retries whose queue is deleted";
    processes::worker_stopped_and_woken, "13", "SIGSTOP of a worker until it is replaced, SIGCONT";
    processes::rolling_restarts, "47", "SIGTERM under load, ten times";
    order::orderly_restarts_keep_the_order, "47", "1,500 pairs, SIGTERM twenty times, five outages";
    processes::second_signal, "47", "a second SIGTERM";
    processes::migrators_at_once, "48", "three migrators, and a schema from the future";
    processes::no_file_descriptors, "49", "no file descriptor left";
    messages::same_id_other_body, "29", "an id used twice";
    messages::unreadable_bodies, "31", "bodies that are no JSON";
    messages::extreme_values, "32", "JSON at and beyond its limits";
    messages::large_messages, "33", "bodies and headers at and beyond the limits";
    messages::code_in_values, "44", "SQL and HTML in values";
    envelopes::strange_ids, "30", "ids that are missing, empty, long, no text";
    envelopes::strange_content, "34", "content types and encodings";
    envelopes::unknown_types, "35", "types that nobody knows";
    envelopes::forged_headers, "36", "headers that brokers write";
    planted::planted_bugs, "", "four mistakes in the program, on purpose";
}

/// What of the fault plan is not played here, or less of it, and where it is tested instead, if anywhere.
const LEFT_OUT: [(&str, &str); 14] = [
    (
        "18 (a channel closed alone)",
        "the broker does that in consumer_timeout and permission_revoked; no test closes one for no reason",
    ),
    ("21 (a hundred crashes)", "ten backends and one postmaster here, and those of the soak: ten in CI"),
    ("22 (60 s without PostgreSQL)", "10 s; every delay has reached its longest by then"),
    (
        "26 (timeouts from 0 to 1 ms, in every statement)",
        "one of 1 ms, in handlers that read; it does not extend to BEGIN and COMMIT",
    ),
    (
        "37 (panics with secrets or HTML)",
        "tests/it/crashes.rs has a panic with a plain text; secrets and HTML in one are not tested",
    ),
    ("38 (abort, panic, a handler that hangs)", "tests/it/crashes.rs has them"),
    (
        "38 (stack overflow, busy loop, blocking sleep, out of memory)",
        "not tested; SIGKILL and abort stand for those that end in a death",
    ),
    ("39 (a full work queue, the dead-letter exchange deleted)", "not tested"),
    (
        "40 (10,000 retries)",
        "forty at once in tests/it/failures.rs and in retries_without_a_queue; more are not tested",
    ),
    (
        "43 (HTTP: tokens, hosts, methods, sizes, slow clients)",
        "tests/it/http.rs has them; forged origins are not tested",
    ),
    (
        "45 (jumps of the clock)",
        "not tested, it takes libfaketime; due times are the database's, durations are measured",
    ),
    ("46 (the virtual host gone)", "not tested"),
    ("47 (fifty stops under load)", "ten here, and those of the soak"),
    ("49 (limits of threads and processes)", "not tested; file descriptors are"),
];

/// Names everything.
pub(crate) fn list() {
    for Scenario { name, plan, injects, .. } in ALL {
        say(&format!("{name:38} {plan:8} {injects}"));
    }
    say(&format!("{:38} {:8} {}", "soak", "50", crate::soak::INJECTED));
    say(&format!("{:38} {:8} {}", "soak_operators", "40, 50", crate::operators::INJECTED));
    say("\nLeft out:");
    for (what, why) in LEFT_OUT {
        say(&format!("{what}: {why}"));
    }
}
