//! `allocation outbox`: events that are committed and not yet published, and those that the broker rejected.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{bootstrap::App, ports::outbox::ParkedEvents as _, views::UnpublishedEvent};

use super::{
    exit::ExitStatus,
    output::{self, Field, Rows},
};

/// List unpublished events, and retry those that the broker rejected.
#[derive(Debug, Args)]
#[command(
    after_help = "An event that the broker rejects is parked with the reason. Later events of its SKU wait, other SKUs \
    continue. Fix the cause, then `retry`: the events of the SKU are published in order."
)]
pub(super) struct Outbox {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List parked events, oldest first.
    List {
        /// Include unpublished events that are not parked.
        #[arg(long)]
        all: bool,
        /// The maximum number of events.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Show one event in full.
    Show {
        /// The id in the first column of `list`.
        id: i64,
    },
    /// Publish parked events again.
    Retry {
        /// The ids of the events.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<i64>,
        /// All parked events.
        #[arg(long)]
        all: bool,
    },
}

impl Outbox {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        match self.command {
            Command::List { all, limit } => list(app, all, limit, json).await,
            Command::Show { id } => show(app, id, json).await,
            Command::Retry { ids, .. } => retry(app, ids, json).await,
        }
    }
}

async fn list(app: &App, all: bool, limit: i64, json: bool) -> anyhow::Result<ExitStatus> {
    let events = app.views().unpublished_events(None, all, limit).await?;
    if json {
        output::json(&events)?;
    } else if events.is_empty() {
        output::line("none");
    } else {
        let mut rows = Rows::new(&["id", "type", "sku", "sequence", "behind", "since", "rejected"]);
        for event in &events {
            let UnpublishedEvent { id, name, sku, sequence, behind, committed_at, refused, .. } = event;
            let refused = refused.as_deref().unwrap_or("no");
            rows.push([
                Field::new(id),
                Field::new(name),
                Field::new(sku),
                Field::new(sequence),
                Field::new(behind),
                Field::new(output::short_time(*committed_at)),
                Field::new(refused),
            ]);
        }
        rows.print();
    }
    Ok(ExitStatus::Success)
}

async fn show(app: &App, id: i64, json: bool) -> anyhow::Result<ExitStatus> {
    let Some(event) = app.views().unpublished_events(Some(id), true, 1).await?.pop() else {
        output::error(&format!("there is no unpublished event {id}; it may have been published"));
        return Ok(ExitStatus::Incomplete);
    };
    if json {
        output::json(&event)?;
        return Ok(ExitStatus::Success);
    }
    output::line(&format!("event      {} {} of {}", event.name, event.sequence, event.sku));
    output::line(&format!("message id {}", event.message_id));
    output::line(&format!("committed  {}", output::long_time(event.committed_at)));
    if let (Some(reason), Some(at)) = (&event.refused, event.refused_at) {
        output::line(&format!("rejected   {}: {}", output::long_time(at), reason));
        output::line(&format!("behind it  {} later events of the SKU", event.behind));
    }
    output::line(&format!("caused by  {}", event.causation_id));
    output::line(&format!("body       {}", event.body.get()));
    Ok(ExitStatus::Success)
}

async fn retry(app: &App, ids: Vec<i64>, json: bool) -> anyhow::Result<ExitStatus> {
    app.check_database().await?;
    let asked = ids.len();
    let which = (asked > 0).then_some(ids);
    let done = app.parked_events().unpark(which.as_deref()).await?;
    let skipped = asked.saturating_sub(done);
    if json {
        let matched = asked.max(done);
        output::json(&json!({ "matched": matched, "done": done, "skipped": skipped, "failed": 0 }))?;
    } else {
        output::line(&format!("{done} will be published again, {skipped} were not parked"));
    }
    Ok(if skipped == 0 { ExitStatus::Success } else { ExitStatus::Incomplete })
}
