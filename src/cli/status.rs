//! `allocation status`: the state of the servers, the queues, the outbox and the failed messages.

use bytesize::ByteSize;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    bootstrap::App,
    ports::{
        admin::{QueueDepth, Topology as _},
        error::error_text,
        installation::DatabaseState,
        processes::{BusyPartition, ProcessRow, ProcessState, UnavailableServer, UnconsumedQueue},
    },
    views::{FailureCounts, OutboxDepth, RelayLeader},
};

use super::{exit::ExitStatus, output};

/// A batch that takes longer is shown, in seconds.
const LONG_BATCH: u64 = 5;

#[derive(Serialize)]
struct Status {
    database: String,
    broker: String,
    schema_version: Option<i64>,
    queues: Vec<QueueDepth>,
    relay: Option<RelayLeader>,
    outbox: Option<OutboxDepth>,
    failures: Option<FailureCounts>,
    failed_message_bytes: Option<u64>,
    processes: Vec<ProcessRow>,
    #[serde(skip)]
    failed_message_limit: u64,
}

impl Status {
    /// Whether failed messages take more space than allowed.
    fn is_full(&self) -> bool {
        self.failed_message_bytes > Some(self.failed_message_limit)
    }
}

/// Exits 1 when a server does not respond, the database accepts no writes or cannot be used, failed messages take more space
/// than allowed, or messages wait in a queue without a consumer.
pub(super) async fn status(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let topology = app.topology();
    let (state, queues) = tokio::join!(app.database_state(), topology.queue_depths());
    let fits = state.as_ref().is_ok_and(|state| state.schema.fits());
    let (mut relay, mut outbox, mut failures, mut failed_message_bytes) = (None, None, None, None);
    let (failed_message_limit, mut processes) = (app.failed_message_limit(), Vec::new());
    if fits {
        let views = app.views();
        relay = views.relay_leader().await?;
        outbox = Some(views.outbox_depth().await?);
        failures = Some(views.failure_counts().await?);
        processes = views.processes().await?;
        failed_message_bytes = Some(views.failed_message_bytes(failed_message_limit).await?);
    }
    let status = Status {
        database: match &state {
            Ok(state) => database(app, state).await,
            Err(error) => format!("{error:#}"),
        },
        broker: queues.as_ref().map_or_else(|error| error_text(error), |_| "ok".into()),
        schema_version: state.ok().and_then(|state| state.schema.found),
        queues: queues.unwrap_or_default(),
        relay,
        outbox,
        failures,
        failed_message_bytes,
        processes,
        failed_message_limit,
    };
    if json {
        output::json(&status)?;
    } else {
        print(&status);
    }
    let is_consumed = !status.queues.iter().any(is_not_consumed);
    Ok(if status.database == "ok" && status.broker == "ok" && is_consumed && !status.is_full() {
        ExitStatus::Success
    } else {
        ExitStatus::Incomplete
    })
}

fn is_not_consumed(queue: &QueueDepth) -> bool {
    queue.ready > 0 && queue.consumers == 0 && !queue.is_unreadable()
}

/// "ok", or why the program cannot work on the database.
async fn database(app: &App, state: &DatabaseState) -> String {
    if let Err(unusable) = state.check(app.namespace()) {
        return unusable.to_string();
    }
    match app.probe_database().await {
        Ok(()) => "ok".into(),
        Err(error) => format!("{error:#}"),
    }
}

fn print(status: &Status) {
    let version =
        status.schema_version.map(|version| format!(", schema version {version}")).unwrap_or_default();
    output::line(&format!("database   {}{version}", status.database));
    output::line(&format!("broker     {}", status.broker));
    match &status.relay {
        Some(RelayLeader { pid, role, application, since, .. }) => output::line(&format!(
            "relay      session {pid} of {role}, application {application}, leads since {}",
            since.format(&Rfc3339).unwrap_or_default()
        )),
        None if status.outbox.is_some() => output::line("relay      none is the leader"),
        None => {}
    }
    if let Some(outbox) = &status.outbox {
        let oldest = outbox.oldest_seconds.map(|age| format!(", oldest {age:.1} s")).unwrap_or_default();
        let OutboxDepth { pending, set_aside, unroutable, nacked_events, nacked_since, .. } = outbox;
        output::line(&format!(
            "outbox     {pending} pending{oldest}; {set_aside} parked; {unroutable} unroutable in total"
        ));
        if let Some(since) = nacked_since {
            output::line(&format!(
                "events     the broker rejects {} since {}: a subscriber's queue is full",
                nacked_events.join(", "),
                output::short_time(*since)
            ));
        }
    }
    if let Some(FailureCounts { retrying, waiting, dead, discarded }) = &status.failures {
        output::line(&format!(
            "failures   {retrying} retrying, {waiting} waiting, {dead} dead, {discarded} discarded"
        ));
    }
    if let Some(bytes) = status.failed_message_bytes {
        let [bytes, limit] = [bytes, status.failed_message_limit].map(ByteSize::b);
        let hint = if status.is_full() { "; no queue is consumed until they take less" } else { "" };
        output::line(&format!(
            "storage    {bytes} of failed messages, limits.failed_messages is {limit}{hint}"
        ));
    }
    print_queues(&status.queues);
    print_processes(&status.processes);
}

fn print_queues(queues: &[QueueDepth]) {
    for queue in queues {
        let QueueDepth { name, ready, consumers } = queue;
        let hint = if is_not_consumed(queue) {
            "; not consumed: the log and /health/ready of its worker have the reason"
        } else if queue.is_unreadable() && *ready > 0 {
            "; these messages have properties that are not UTF-8; take them out with a tool of the broker"
        } else {
            ""
        };
        output::line(&format!("queue      {name}: {ready} ready, {consumers} consumers{hint}"));
    }
}

fn print_processes(processes: &[ProcessRow]) {
    for process in processes.iter().filter(|process| process.status != "stopped") {
        output::line(&format!("process    {}", description(process)));
    }
}

fn description(process: &ProcessRow) -> String {
    let ProcessRow { name, version, roles, started_at, seen_at, status, state } = process;
    let started = output::short_time(*started_at);
    let mut parts = vec![format!("{name} {version} {} since {started}", roles.join(","))];
    if *status == "lost" {
        parts.push(format!("lost: last seen {}", output::short_time(*seen_at)));
        return parts.join("; ");
    }
    let ProcessState { queues: _, busy, unavailable, not_consuming } = state;
    for UnavailableServer { server, seconds, error } in unavailable {
        parts.push(format!("{server} unavailable for {seconds} s: {error}"));
    }
    for UnconsumedQueue { queue, error } in not_consuming {
        let error = if error.is_empty() { "it subscribes" } else { error };
        parts.push(format!("does not consume {queue}: {error}"));
    }
    for BusyPartition { queue, seconds } in busy.iter().filter(|partition| partition.seconds >= LONG_BATCH) {
        parts.push(format!("busy with a batch of {queue} for {seconds} s"));
    }
    parts.join("; ")
}
