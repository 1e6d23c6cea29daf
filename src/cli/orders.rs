//! `allocation orders show`: where are the lines of an order?

use clap::{Args, Subcommand};

use crate::bootstrap::App;

use super::{ExitStatus, output};

#[derive(Debug, Args)]
pub(super) struct Orders {
    #[command(subcommand)]
    what: OrdersCommand,
}

#[derive(Debug, Subcommand)]
enum OrdersCommand {
    /// Show the lines of an order: in which batch each sits, or that it waits.
    Show {
        /// The order.
        orderid: String,
    },
}

impl Orders {
    /// Exits 1 if no line of the order is known.
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let OrdersCommand::Show { orderid } = self.what;
        let Some(order) = app.views().order(&orderid).await? else {
            output::error(&format!("no line of order {} is known", output::sanitize(&orderid)));
            return Ok(ExitStatus::Incomplete);
        };
        if json {
            output::json(&order)?;
            return Ok(ExitStatus::Success);
        }
        let mut table = output::table(&["sku", "qty", "status", "batch"]);
        for line in &order.lines {
            let batch = line.batchref.as_deref().unwrap_or("-");
            table.add_row([
                &output::sanitize(&line.sku),
                &line.qty.to_string(),
                line.status,
                &output::sanitize(batch),
            ]);
        }
        output::line(&table.to_string());
        Ok(ExitStatus::Success)
    }
}
