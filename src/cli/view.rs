//! `allocation view rebuild`: the read model, made anew from the write side while work goes on.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{bootstrap::App, ports::admin::ReadModel as _};

use super::{ExitStatus, output};

#[derive(Debug, Args)]
pub(super) struct View {
    #[command(subcommand)]
    what: ViewCommand,
}

#[derive(Debug, Subcommand)]
enum ViewCommand {
    /// Compare every row of the read model with the line it tells of, put right what differs, and say how many did.
    Rebuild,
}

impl View {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let ViewCommand::Rebuild = self.what;
        let progress = ProgressBar::no_length()
            .with_style(ProgressStyle::with_template("{spinner} {human_pos} lines compared")?);
        let rebuilt = app.read_model().rebuild(&|rebuilt| progress.set_position(rebuilt.lines)).await?;
        progress.finish_and_clear();
        if json {
            output::json(&json!({ "lines": rebuilt.lines, "differed": rebuilt.differed }))?;
        } else {
            let differed = match rebuilt.differed {
                0 => "none differed".to_owned(),
                number => format!("{number} differed: put right"),
            };
            output::line(&format!("{} lines compared, {differed}", rebuilt.lines));
        }
        Ok(ExitStatus::Success)
    }
}
