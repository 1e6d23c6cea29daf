//! `allocation why`: why a queue does not move, and why an order is not allocated.

use std::fmt::Write as _;

use clap::{Args, Subcommand};

use crate::{
    bootstrap::App,
    ports::queue::QueueName,
    service::diagnosis::{
        Finding, NOTHING, NotKnown, OrderDiagnosis, OrderState, QueueDiagnosis, ReasonCode,
    },
};

use super::{arguments::not_blank, exit::ExitStatus, output};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  allocation why orders\n  allocation why order WEB-9002\n\n\
    The first reason is the root cause. Exit status 0: the queue moves or has nothing to do; the order is allocated. 1: not."
)]
pub(super) struct Why {
    /// orders, stock or notifications, with or without the namespace.
    #[arg(required = true, value_parser = not_blank)]
    queue: Option<String>,
    #[command(subcommand)]
    order: Option<WhyOrder>,
}

#[derive(Debug, Subcommand)]
enum WhyOrder {
    /// Explain why the lines of an order are not allocated.
    Order {
        /// The order id.
        #[arg(value_parser = not_blank)]
        orderid: String,
    },
}

impl Why {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        if let Some(WhyOrder::Order { orderid }) = self.order {
            return order(app, &orderid, json).await;
        }
        let queue = self.queue.unwrap_or_default();
        let name = queue.strip_prefix(&format!("{}.", app.namespace())).unwrap_or(&queue);
        let Some(name) = QueueName::ALL.into_iter().find(|known| known.as_str() == name) else {
            output::error(&format!("there is no queue {queue:?}: use orders, stock or notifications"));
            return Ok(ExitStatus::UsageError);
        };
        let diagnosis = app.diagnose_queue(name).await;
        if json {
            output::json(&diagnosis)?;
        } else {
            print(&diagnosis);
        }
        Ok(if diagnosis.is_well() { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

fn print(diagnosis: &QueueDiagnosis) {
    output::line(&headline(diagnosis));
    for Finding { code, since, evidence, fix, anchor } in &diagnosis.reasons {
        let since = since.map(|since| format!(" since {}", output::short_time(since))).unwrap_or_default();
        output::line(&format!("BECAUSE    {}{since}: {evidence}", code.as_str()));
        if fix != NOTHING {
            output::line(&format!("           do: {fix}  [docs/runbook.md#{anchor}]"));
        }
    }
    if !diagnosis.ruled_out.is_empty() {
        let codes: Vec<_> = diagnosis.ruled_out.iter().copied().map(ReasonCode::as_str).collect();
        output::line(&format!("RULED OUT  {}", codes.join(", ")));
    }
    for NotKnown { code, because } in &diagnosis.not_known {
        output::line(&format!("NOT KNOWN  {}: {because}", code.as_str()));
    }
}

/// The depth of the queue, and whether it moves.
fn headline(diagnosis: &QueueDiagnosis) -> String {
    let QueueDiagnosis { queue, ready, consumers, unacknowledged, .. } = diagnosis;
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let mut line = format!(
        "{queue}: {} ready, {} consumers, {} unacknowledged; ",
        number(ready.map(u64::from)),
        number(consumers.map(u64::from)),
        number(*unacknowledged),
    );
    match (diagnosis.moving, diagnosis.is_well()) {
        (Some(true), _) => {
            let rate = diagnosis.handled_per_second.unwrap_or_default();
            let _ = write!(line, "moving: {rate:.1} handled per second");
            if let Some(seconds) = diagnosis.empty_in_seconds.filter(|seconds| *seconds >= 1.0) {
                let _ = write!(line, ", empty in {seconds:.0} s if nothing arrives");
            }
        }
        (_, true) => line.push_str("nothing to do"),
        (Some(false), false) => line.push_str("NOT MOVING: none handled within the last minute"),
        (None, false) => line.push_str("whether it moves is not known"),
    }
    line
}

async fn order(app: &App, orderid: &str, json: bool) -> anyhow::Result<ExitStatus> {
    let diagnosis = app.diagnose_order(orderid).await?;
    if json {
        output::json(&diagnosis)?;
    } else {
        print_order(&diagnosis);
    }
    let is_allocated = diagnosis.stands == OrderState::Allocated;
    Ok(if is_allocated { ExitStatus::Success } else { ExitStatus::Incomplete })
}

fn print_order(diagnosis: &OrderDiagnosis) {
    let OrderDiagnosis { orderid, stands, lines } = diagnosis;
    output::line(&format!("order {orderid}: {}", stands.as_str()));
    for line in lines {
        output::line(&format!("  {}: {}", line.subject, line.evidence));
        if let Some(fix) = &line.fix {
            output::line(&format!("    do: {fix}"));
        }
    }
    if *stands == OrderState::Unknown {
        output::line(
            "  no line and no failed command of it is known: it was not sent, is in a queue (allocation why orders), or its \
             lines were removed by deallocate",
        );
    }
}
