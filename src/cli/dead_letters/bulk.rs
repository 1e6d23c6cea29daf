//! Acting on many: `retry`, `discard` and `restore`, a portion at a time, and always saying how far it came.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap::App,
    ports::failed_messages::{ActionResult, FailedMessages as _, Operator, OperatorAction},
    service::failed_messages::{BulkReport, act_on_all},
};

use super::{
    super::{ExitStatus, output},
    TargetArgs,
};

/// So many reasons for skipping are told one by one.
const MAX_SKIP_MESSAGES: usize = 10;

pub(super) async fn apply(
    app: &App,
    action: OperatorAction,
    which: TargetArgs,
    by: Operator,
    rate: Option<u32>,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let (dry_run, asked) = (which.dry_run, which.ids.len());
    let default_status = if action == OperatorAction::Restore { "discarded" } else { "dead" };
    let Some(filter) = which.filter(app, default_status) else {
        output::error("say which: ids, filters, --group G, or --all");
        return Ok(ExitStatus::UsageError);
    };
    let ledger = app.ledger();
    if dry_run {
        let matched = ledger.matching(&filter).await?.len();
        print_report(&BulkReport { matched, ..BulkReport::default() }, true, json)?;
        return Ok(ExitStatus::Success);
    }
    let stop = stop_on_interrupt();
    let progress = ProgressBar::no_length()
        .with_style(ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} to go")?);
    let mut told = 0;
    let report = act_on_all(&ledger, action, &filter, &by, rate, &stop, |report, results| {
        progress.set_length(report.matched as u64);
        progress.set_position((report.done + report.skipped) as u64);
        for (id, results) in results {
            if let ActionResult::Skipped(why) = results
                && told < MAX_SKIP_MESSAGES
            {
                told += 1;
                progress.suspend(|| output::note(&format!("{id} skipped: {why}")));
            }
        }
    })
    .await?;
    progress.finish_and_clear();
    let missing = asked.saturating_sub(report.matched);
    if missing > 0 {
        output::error(&format!("{missing} of the ids are of no failed message"));
    }
    print_report(&report, false, json)?;
    if report.failed > 0 {
        let why = report.stopped_by.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        output::error(&format!(
            "it stopped with {} to go{why}; the same command does the rest",
            report.failed
        ));
    }
    Ok(if report.done == report.matched && missing == 0 {
        ExitStatus::Success
    } else {
        ExitStatus::Incomplete
    })
}

fn stop_on_interrupt() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            told.cancel();
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
        format!("{matched} match; nothing was done")
    } else {
        format!("{matched} matched, {done} done, {skipped} skipped")
    });
    Ok(())
}
