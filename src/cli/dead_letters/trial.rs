//! `try`: what a retry would do. It fails like a retry that is not complete: exit status 1 unless each message would succeed.

use crate::{
    bootstrap::App,
    domain::{Status, StatusKind},
    ports::failed_messages::FailedMessages as _,
    service::{
        effects::{BatchChange, LineChange, LinePlace},
        trial::{TrialOptions, TrialReport, Verdict},
    },
};

use super::{
    super::{exit::ExitStatus, output},
    target::SelectionArgs,
};

/// The most messages of one call.
pub(super) const MAX_MESSAGES: i64 = 100;

pub(super) const HELP: &str = "Examples:\n  \
    allocation dead-letters try 80\n  \
    allocation dead-letters try --group 2c5db63060cce504 --limit 100\n  \
    allocation dead-letters try 80 --json\n\n\
    The messages are handled as a worker handles them, with all checks of the database, and all is rolled back. The call \
    takes 5 s at most; a lock of another session is awaited for 1 s. Exit status 0: each of them would succeed.";

pub(super) async fn try_messages(
    app: &App,
    selection: SelectionArgs,
    limit: usize,
    options: TrialOptions,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let given = selection.ids.clone();
    let Some(filter) = selection.filter(app, StatusKind::Dead) else {
        output::error("no messages selected: give ids, filters, --group G, or --all");
        return Ok(ExitStatus::UsageError);
    };
    app.check_database().await?;
    let mut ids = app.failed_messages().matching(&filter).await?;
    let missing = given.iter().filter(|id| !ids.contains(id)).count();
    let matched = ids.len();
    ids.truncate(limit);
    let reports = app.trial().run(&ids, options).await?;
    if json {
        output::json(&reports)?;
    } else {
        reports.iter().for_each(print);
        print_end(&reports);
    }
    if missing > 0 {
        output::error(&format!("{missing} of the ids do not exist"));
    }
    if matched > ids.len() {
        output::note(&format!("{} of {matched} messages were tried; see --limit", ids.len()));
    }
    let succeed = reports.iter().all(|report| report.would == Verdict::Succeed);
    let complete = succeed && missing == 0 && reports.len() == ids.len();
    Ok(if complete { ExitStatus::Success } else { ExitStatus::Incomplete })
}

fn print(report: &TrialReport) {
    let TrialReport { id, message, error, .. } = report;
    let subject = message.subject.as_deref().map(|subject| format!(" {subject}")).unwrap_or_default();
    let reason = message.status.reason().map(|reason| format!(" ({})", reason.as_str())).unwrap_or_default();
    let status = message.status.kind().as_str();
    let last =
        if message.status == Status::Resolved { String::new() } else { format!(": {}", message.error) };
    output::line(&format!("message {id}: {}{subject}, {status}{reason}{last}", message.kind));
    let because = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    output::line(&format!("handled now, as of {}, {}{because}", time(report), verdict(report.would)));
    if let Some(next) = report.next.filter(|_| report.would == Verdict::Fail) {
        output::line(&format!("  then    {next}"));
    }
    report.lines.iter().for_each(print_line);
    report.batches.iter().for_each(print_batch);
    for event in &report.events {
        output::line(&format!("  event   {}, number {} of {}", event.kind, event.sequence, event.sku));
    }
    if let Some(mail) = &report.mail {
        output::line(&format!("  mail    to {}: {}", mail.to, mail.subject));
    }
    let has_effect = !(report.lines.is_empty() && report.batches.is_empty()) || report.mail.is_some();
    if report.would == Verdict::Succeed && !has_effect {
        output::line("  effect  none");
    }
    for caveat in &report.caveats {
        output::line(&format!("  note    {caveat}"));
    }
}

/// Hours, minutes and seconds.
fn time(report: &TrialReport) -> String {
    output::short_time(report.as_of).split_off("2026-11-25 ".len())
}

fn verdict(would: Verdict) -> &'static str {
    match would {
        Verdict::Succeed => "it would succeed",
        Verdict::Repeat => "it would change nothing",
        Verdict::Fail => "it would fail",
        Verdict::Wait => "it would wait",
        Verdict::Skip => "a retry would skip it",
        Verdict::Busy => "its result is not known",
    }
}

fn print_line(line: &LineChange) {
    let LineChange { orderid, sku, qty, from, to } = line;
    let (from, to) = (place(from.as_ref()), place(to.as_ref()));
    output::line(&format!("  line    {orderid} / {sku} ×{qty}: {from} → {to}"));
}

fn place(place: Option<&LinePlace>) -> String {
    match place {
        None => "none".to_owned(),
        Some(LinePlace { batchref: Some(batchref), .. }) => format!("batch {batchref}"),
        Some(LinePlace { status, .. }) => (*status).to_owned(),
    }
}

fn print_batch(batch: &BatchChange) {
    let change = |[before, after]: [u32; 2]| {
        if before == after { after.to_string() } else { format!("{before} → {after}") }
    };
    let (purchased, allocated) = (change(batch.purchased), change(batch.allocated));
    output::line(&format!("  batch   {}: {purchased} purchased, {allocated} allocated", batch.batchref));
}

fn print_end(reports: &[TrialReport]) {
    let succeeding: Vec<_> = reports.iter().filter(|report| report.would == Verdict::Succeed).collect();
    if reports.len() > 1 {
        output::line(&format!("{} of {} would succeed", succeeding.len(), reports.len()));
    }
    let ids: Vec<_> = succeeding.iter().map(|report| report.id.to_string()).collect();
    if ids.is_empty() {
        output::line("nothing was changed");
    } else {
        output::line(&format!(
            "nothing was changed; to do it: allocation dead-letters retry {}",
            ids.join(" ")
        ));
    }
}
