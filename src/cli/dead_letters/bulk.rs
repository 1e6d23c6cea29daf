//! `retry`, `discard` and `restore`: actions on many messages, with progress and a report.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap::App,
    domain::{OperatorAction, StatusKind},
    ports::failed_messages::{ActionResult, FailedMessages as _, Operator},
    service::failed_messages::{BulkReport, apply_to_matching},
};

use super::{
    super::{exit::ExitStatus, output},
    target::TargetArgs,
};

/// The number of skipped messages whose reasons are printed.
const MAX_SKIP_MESSAGES: usize = 10;

pub(super) async fn apply(
    app: &App,
    action: &OperatorAction,
    target: TargetArgs,
    by: Operator,
    rate: Option<u32>,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let TargetArgs { selection, dry_run } = target;
    let ids = selection.ids.len();
    let is_restore = matches!(action, OperatorAction::Restore);
    let default_status = if is_restore { StatusKind::Discarded } else { StatusKind::Dead };
    let Some(filter) = selection.filter(app, default_status) else {
        output::error("no messages selected: give ids, filters, --group G, or --all");
        return Ok(ExitStatus::UsageError);
    };
    app.check_database().await?;
    let failed_messages = app.failed_messages();
    if dry_run {
        let matched = failed_messages.matching(&filter).await?.len();
        print_report(&BulkReport { matched, ..BulkReport::default() }, true, json)?;
        return Ok(ExitStatus::Success);
    }
    let stop = stop_on_interrupt();
    let mut progress = Progress::new()?;
    let on_progress = |report: &BulkReport, results: &[_]| progress.update(report, results);
    let report = apply_to_matching(&failed_messages, action, &filter, &by, rate, &stop, on_progress).await?;
    progress.bar.finish_and_clear();
    let missing = ids.saturating_sub(report.matched);
    if missing > 0 {
        output::error(&format!("{missing} of the ids do not exist"));
    }
    print_report(&report, false, json)?;
    print_remaining(&report);
    let complete = report.done == report.matched && missing == 0;
    Ok(if complete { ExitStatus::Success } else { ExitStatus::Incomplete })
}

struct Progress {
    bar: ProgressBar,
    notes: usize,
}

impl Progress {
    fn new() -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} remaining")?;
        Ok(Self { bar: ProgressBar::no_length().with_style(style), notes: 0 })
    }

    fn update(&mut self, report: &BulkReport, results: &[(i64, ActionResult)]) {
        self.bar.set_length(report.matched as u64);
        self.bar.set_position((report.done + report.skipped) as u64);
        for (id, result) in results {
            if let ActionResult::Skipped(reason) = result
                && self.notes < MAX_SKIP_MESSAGES
            {
                self.notes += 1;
                self.bar.suspend(|| output::note(&format!("{id} skipped: {reason}")));
            }
        }
    }
}

fn stop_on_interrupt() -> CancellationToken {
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    stop
}

fn print_report(report: &BulkReport, dry_run: bool, json: bool) -> anyhow::Result<()> {
    let BulkReport { matched, done, skipped, .. } = report;
    if json {
        let mut report = json!(report);
        if dry_run {
            report["dry_run"] = json!(true);
        }
        return output::json(&report);
    }
    output::line(&if dry_run {
        format!("{matched} match; nothing was changed")
    } else {
        format!("{matched} matched, {done} done, {skipped} skipped")
    });
    Ok(())
}

fn print_remaining(report: &BulkReport) {
    if report.failed == 0 {
        return;
    }
    let error = report.stopped_by.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
    output::error(&format!(
        "stopped with {} messages remaining{error}; run the same command to continue",
        report.failed
    ));
}
