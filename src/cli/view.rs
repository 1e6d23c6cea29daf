//! `allocation view rebuild`: repairs the read model from the write side while the service runs.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{bootstrap::App, ports::admin::ReadModel as _};

use super::{exit::ExitStatus, output};

#[derive(Debug, Args)]
pub(super) struct View {
    #[command(subcommand)]
    command: ViewCommand,
}

#[derive(Debug, Subcommand)]
enum ViewCommand {
    /// Compare every row of the read model with its order line, repair the rows that differ, and print their number.
    Rebuild,
}

impl View {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let ViewCommand::Rebuild = self.command;
        app.check_database().await?;
        let progress = ProgressBar::no_length()
            .with_style(ProgressStyle::with_template("{spinner} {human_pos} lines compared")?);
        let rebuilt = app.read_model().rebuild(&|rebuilt| progress.set_position(rebuilt.lines)).await?;
        progress.finish_and_clear();
        if json {
            output::json(&json!({ "lines": rebuilt.lines, "differed": rebuilt.differed }))?;
        } else {
            let differed = match rebuilt.differed {
                0 => "no differences".to_owned(),
                number => format!("{number} repaired"),
            };
            output::line(&format!("{} lines compared, {differed}", rebuilt.lines));
        }
        Ok(ExitStatus::Success)
    }
}
