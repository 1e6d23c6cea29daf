//! `allocation status`: the state of the servers, the queues, the outbox and the failed messages.

use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    bootstrap::App,
    ports::{
        admin::{QueueDepth, Topology as _},
        error::error_text,
        installation::DatabaseState,
    },
    views::{FailureCounts, OutboxDepth, RelayLeader},
};

use super::{exit::ExitStatus, output};

#[derive(Serialize)]
struct Status {
    database: String,
    broker: String,
    schema_version: Option<i64>,
    queues: Vec<QueueDepth>,
    relay: Option<RelayLeader>,
    outbox: Option<OutboxDepth>,
    failures: Option<FailureCounts>,
}

/// Exits 1 when a server does not respond, the database accepts no writes or cannot be used, or messages wait in a queue
/// without a consumer.
pub(super) async fn status(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let topology = app.topology();
    let (state, queues) = tokio::join!(app.database_state(), topology.queue_depths());
    let fits = state.as_ref().is_ok_and(|state| state.schema.fits());
    let (relay, outbox, failures) = if fits {
        let views = app.views();
        let (outbox, failures) = (views.outbox_depth().await?, views.failure_counts().await?);
        (views.relay_leader().await?, Some(outbox), Some(failures))
    } else {
        (None, None, None)
    };
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
    };
    if json {
        output::json(&status)?;
    } else {
        print(&status);
    }
    let is_consumed = !status.queues.iter().any(is_not_consumed);
    Ok(if status.database == "ok" && status.broker == "ok" && is_consumed {
        ExitStatus::Success
    } else {
        ExitStatus::Incomplete
    })
}

fn is_not_consumed(queue: &QueueDepth) -> bool {
    queue.ready > 0 && queue.consumers == 0
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
        let OutboxDepth { pending, set_aside, unroutable, .. } = outbox;
        output::line(&format!(
            "outbox     {pending} pending{oldest}; {set_aside} parked; {unroutable} unroutable in total"
        ));
    }
    if let Some(FailureCounts { retrying, waiting, dead, discarded }) = &status.failures {
        output::line(&format!(
            "failures   {retrying} retrying, {waiting} waiting, {dead} dead, {discarded} discarded"
        ));
    }
    for queue in &status.queues {
        let QueueDepth { name, ready, consumers } = queue;
        let hint = if is_not_consumed(queue) {
            "; not consumed: the log and /health/ready of its worker have the reason"
        } else {
            ""
        };
        output::line(&format!("queue      {name}: {ready} ready, {consumers} consumers{hint}"));
    }
}
