//! The arguments of `allocation send`, and the command that they describe.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::ports::admin::OutboundCommand;

/// Enqueue commands, as an upstream system does.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(in crate::cli) struct Send {
    /// JSON lines, each `{"type", "message_id" (optional), "body"}`; - is standard input.
    #[arg(long, required = true, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Wait until all commands are handled and their events are published, and print the result.
    #[arg(long)]
    pub(super) follow: bool,
    /// Before a command for another queue, wait until the earlier commands are handled, so that the result of a file does
    /// not depend on which queue is faster. Requires access to the database.
    #[arg(long, requires = "file")]
    pub(super) in_order: bool,
    /// Do not check the commands as the worker would before they are published.
    #[arg(long)]
    pub(super) unchecked: bool,
    /// How long commands that a lost connection left unconfirmed are sent again, after the last one that was confirmed.
    #[arg(long, global = true, value_name = "DURATION", default_value = "1m", value_parser = up_to_a_day)]
    pub(super) give_up_after: Duration,
    #[command(subcommand)]
    pub(super) single: Option<SingleCommand>,
}

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration <= Duration::from_hours(24) { Ok(duration) } else { Err("must be at most 1day".into()) }
}

/// One command, given by its fields.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(super) enum SingleCommand {
    /// Register a batch of purchased stock, and its SKU if it is new.
    CreateBatch {
        /// The unique reference of the new batch.
        #[arg(long = "ref", value_name = "REF")]
        reference: String,
        /// The SKU of the batch.
        #[arg(long)]
        sku: String,
        /// The purchased quantity.
        #[arg(long)]
        qty: u32,
        /// The date of arrival, YYYY-MM-DD; absent for stock in the warehouse.
        #[arg(long)]
        eta: Option<String>,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Allocate an order line to a batch, or record it as a backorder.
    Allocate {
        /// The order.
        #[arg(long)]
        orderid: String,
        /// The SKU of the line.
        #[arg(long)]
        sku: String,
        /// The ordered quantity.
        #[arg(long)]
        qty: u32,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Remove an order line.
    Deallocate {
        /// The order.
        #[arg(long)]
        orderid: String,
        /// The SKU of the line.
        #[arg(long)]
        sku: String,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Correct the purchased quantity of a batch.
    ChangeBatchQuantity {
        /// The batch.
        #[arg(long)]
        batchref: String,
        /// The correct quantity.
        #[arg(long)]
        qty: u32,
        /// The sender's number of the correction; a number not above the last one of the batch is skipped.
        #[arg(long)]
        revision: Option<i64>,
        #[command(flatten)]
        id: MessageIdArg,
    },
}

#[derive(Debug, Args)]
pub(super) struct MessageIdArg {
    /// The deduplication key: a command that is sent again with the same id is handled once. Generated if absent.
    #[arg(long)]
    message_id: Option<String>,
}

impl From<SingleCommand> for OutboundCommand {
    fn from(command: SingleCommand) -> Self {
        let (kind, body, id) = command.into_parts();
        Self {
            kind: kind.into(),
            message_id: id.message_id.unwrap_or_else(new_message_id),
            body: body.to_string().into_bytes(),
        }
    }
}

impl SingleCommand {
    /// The command's type, body and message id.
    fn into_parts(self) -> (&'static str, Value, MessageIdArg) {
        match self {
            Self::CreateBatch { reference, sku, qty, eta, id } => {
                ("create_batch", json!({ "ref": reference, "sku": sku, "qty": qty, "eta": eta }), id)
            }
            Self::Allocate { orderid, sku, qty, id } => {
                ("allocate", json!({ "orderid": orderid, "sku": sku, "qty": qty }), id)
            }
            Self::Deallocate { orderid, sku, id } => {
                ("deallocate", json!({ "orderid": orderid, "sku": sku }), id)
            }
            Self::ChangeBatchQuantity { batchref, qty, revision, id } => {
                let mut body = json!({ "batchref": batchref, "qty": qty });
                if let Some(revision) = revision {
                    body["revision"] = revision.into();
                }
                ("change_batch_quantity", body, id)
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the sender generates the ids of its messages, as an upstream system does"
)]
pub(super) fn new_message_id() -> String {
    Uuid::now_v7().to_string()
}
