//! `allocation trace`: the history of a message or of an order. Exits 1 if nothing is known about it.

use std::fmt::Write as _;

use clap::Args;

use crate::{bootstrap::App, views::History};

use super::{arguments::not_blank, exit::ExitStatus, output};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  allocation trace web-9002\n  allocation trace --failed 80\n  allocation trace --order WEB-9002\n\n\
    Times are those of the database. What nothing is recorded about is listed as `not known`. Exit status 1: nothing is known."
)]
pub(super) struct Trace {
    /// The message id, as the sender set it.
    #[arg(value_parser = not_blank, required_unless_present_any = ["failed", "order"])]
    message_id: Option<String>,
    /// Only in this queue: orders, stock or notifications, with or without the namespace.
    #[arg(long, value_parser = not_blank, requires = "message_id")]
    queue: Option<String>,
    /// The id of a failed message instead, as `dead-letters list` prints it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["message_id", "order"])]
    failed: Option<i64>,
    /// An order instead: its lines and its failed messages.
    #[arg(long, value_name = "ORDERID", value_parser = not_blank, conflicts_with = "message_id")]
    order: Option<String>,
}

impl Trace {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let (views, kept) = (app.views(), app.kept_for());
        let history = match (self.message_id, self.failed, self.order) {
            (Some(message_id), ..) => {
                let prefix = format!("{}.", app.namespace());
                let queue = self.queue.as_deref();
                let queue = queue.map(|queue| queue.strip_prefix(&prefix).unwrap_or(queue));
                views.message_history(&message_id, queue, kept).await?
            }
            (None, Some(id), _) => {
                let Some(history) = views.failed_message_history(id, kept).await? else {
                    output::error(&format!("there is no failed message {id}"));
                    return Ok(ExitStatus::Incomplete);
                };
                history
            }
            (None, None, order) => views.order_history(&order.unwrap_or_default(), kept).await?,
        };
        let status = if history.stands == "unknown" { ExitStatus::Incomplete } else { ExitStatus::Success };
        if json {
            output::json(&history)?;
        } else {
            print(&history);
        }
        Ok(status)
    }
}

fn print(history: &History) {
    let width = history.steps.iter().map(|step| step.what.chars().count()).max().unwrap_or_default();
    for step in &history.steps {
        let at = output::long_time(step.at);
        output::line(&format!("{at:<27}  {:<width$}  {}", step.what, step.text));
    }
    let mut stands = format!("it stands: {}", history.stands);
    for line in &history.lines {
        let place = match &line.batchref {
            Some(batch) => format!("allocated in {batch}"),
            None => "backordered".to_owned(),
        };
        let _ = write!(stands, "; {} / {} is {place}", line.orderid, line.sku);
    }
    output::line(&stands);
    for not_known in &history.not_known {
        output::line(&format!("not known: {not_known}"));
    }
}
