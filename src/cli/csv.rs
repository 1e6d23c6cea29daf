//! `allocation csv`: allocates the orders of a folder of files, without servers.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::bootstrap::{self, CsvErrors, CsvReport};

use super::{exit::ExitStatus, output};

#[derive(Debug, Args)]
pub(super) struct Csv {
    /// A folder with batches.csv (ref,sku,qty,eta), orders.csv (orderid,sku,qty) and optionally allocations.csv
    /// (orderid,sku,qty,batchref), which is replaced.
    dir: PathBuf,
}

impl Csv {
    /// Exits 1 if a row is invalid, in which case nothing is written, or if an order was rejected. A line without stock
    /// is not a failure.
    pub(super) async fn execute(self, json: bool) -> anyhow::Result<ExitStatus> {
        let progress = ProgressBar::no_length()
            .with_style(ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} orders")?);
        let report = bootstrap::allocate_files(&self.dir, |done, of| {
            progress.set_length(of as u64);
            progress.set_position(done as u64);
        });
        let report = report.await;
        progress.finish_and_clear();
        match report {
            Ok(report) => {
                print(&report, json)?;
                Ok(if report.rejected.is_empty() { ExitStatus::Success } else { ExitStatus::Incomplete })
            }
            Err(error) => match error.downcast::<CsvErrors>() {
                Ok(CsvErrors(rows)) => {
                    for row in &rows {
                        output::error(row);
                    }
                    output::error("nothing was written");
                    Ok(ExitStatus::Incomplete)
                }
                Err(error) => Err(error),
            },
        }
    }
}

fn print(report: &CsvReport, json: bool) -> anyhow::Result<()> {
    let CsvReport { orders, kept, placed, without_stock, rejected, formulas } = report;
    for row in rejected {
        output::error(row);
    }
    for row in formulas {
        output::note(&format!("warning: {row}"));
    }
    if json {
        let waiting = without_stock
            .iter()
            .map(|(orderid, sku, qty)| json!({ "orderid": orderid, "sku": sku, "qty": qty }));
        return output::json(&json!({
            "orders": orders, "kept": kept, "placed": placed,
            "without_stock": waiting.collect::<Vec<_>>(), "rejected": rejected,
        }));
    }
    for (orderid, sku, qty) in without_stock {
        output::line(&format!("Out of stock for {sku}: {qty} for order {orderid}"));
    }
    output::line(&format!(
        "{orders} orders: {placed} lines placed, {} without stock, {} rejected; {kept} allocations kept",
        without_stock.len(),
        rejected.len(),
    ));
    Ok(())
}
