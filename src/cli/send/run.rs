//! The steps of `allocation send`.

use std::time::Instant;

use crate::{
    bootstrap::App,
    cli::{exit::ExitStatus, output},
    ports::admin::OutboundCommand,
    service::decode::checked_id,
    views::RecordedTotals,
};

use super::{
    args::Send,
    check::Check,
    file::{FileSender, send_file},
    follow::follow,
    report::SendReport,
};

impl Send {
    /// Exits 0 only if every command was valid, confirmed and, with `--follow`, handled.
    pub(in crate::cli) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        if self.follow || self.in_order {
            app.check_database().await?; // Otherwise the results would be looked for in another installation.
        }
        let views = app.views();
        let before = if self.follow { views.recorded_totals().await? } else { RecordedTotals::default() };
        let begin = Instant::now();
        let (mut report, sender) = (SendReport::new(self.give_up_after), app.sender());
        let check = if self.unchecked { Check::Nothing } else { Check::AsWorker(app.limits()) };
        match (self.single, self.file) {
            (Some(_), Some(_)) => return Ok(usage_error("give one command or --file, not both")),
            (Some(single), None) => {
                let command = OutboundCommand::from(single);
                if let Err(error) = checked_id(&command.message_id) {
                    return Ok(usage_error(&error.to_string()));
                }
                if let Err(error) = check.apply(&command) {
                    return Ok(usage_error(&error.to_string()));
                }
                report.send(&sender, vec![command]).await;
            }
            (None, Some(file)) => {
                let in_order = self.in_order.then(|| app.views());
                let sender = FileSender { sender, check, in_order };
                send_file(&sender, &file, &mut report).await?;
            }
            (None, None) => unreachable!("clap requires one of them"),
        }
        report.took = begin.elapsed();
        let followed = if self.follow { Some(follow(&views, &report, before, begin).await?) } else { None };
        if json {
            output::json(&report.to_json(followed.as_ref()))?;
        } else {
            report.print(followed.as_ref());
        }
        Ok(report.exit_status(followed.as_ref()))
    }
}

fn usage_error(text: &str) -> ExitStatus {
    output::error(text);
    ExitStatus::UsageError
}
