//! `allocation orders show`: the lines of an order and their batches.

use clap::{Args, Subcommand};

use crate::bootstrap::App;

use super::{
    arguments::not_blank,
    exit::ExitStatus,
    output::{self, Field, Rows},
};

#[derive(Debug, Args)]
pub(super) struct Orders {
    #[command(subcommand)]
    command: OrdersCommand,
}

#[derive(Debug, Subcommand)]
enum OrdersCommand {
    /// Show the lines of an order, each with its batch or as a backorder.
    Show {
        /// The order.
        #[arg(value_parser = not_blank)]
        orderid: String,
    },
}

impl Orders {
    /// Exits 1 if the order has no lines.
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let OrdersCommand::Show { orderid } = self.command;
        let Some(order) = app.views().order(&orderid).await? else {
            output::error(&format!("order {orderid} has no lines"));
            return Ok(ExitStatus::Incomplete);
        };
        if json {
            output::json(&order)?;
            return Ok(ExitStatus::Success);
        }
        let mut rows = Rows::new(&["sku", "qty", "status", "batch"]);
        for line in &order.lines {
            let batch = line.batchref.as_deref().unwrap_or("-");
            let fields = [&line.sku, &line.qty.to_string(), line.status, batch];
            rows.push(fields.map(Field::new));
        }
        rows.print();
        Ok(ExitStatus::Success)
    }
}
