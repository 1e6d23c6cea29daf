//! `list`, `groups`, `show` and `export`: queries only.

use comfy_table::Color;
use serde_json::Value;

use crate::{
    bootstrap::App,
    domain::StatusKind,
    ports::{failed_messages::FailedMessageFilter, text::escape_json},
    views::{AttemptRow, FailedMessageDetail, FailedMessageSummary, ListPosition},
};

use super::super::{
    exit::ExitStatus,
    output::{self, Field, JsonLines, Rows},
};

pub(super) async fn list(
    app: &App,
    filter: &FailedMessageFilter,
    limit: i64,
    cursor: Option<ListPosition>,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let messages = app.views().failed_messages(filter, limit, cursor).await?;
    if json {
        output::json(&messages)?;
    } else if messages.is_empty() {
        output::line("none");
    } else {
        let columns = ["id", "failed", "queue", "type", "message id", "status", "attempts", "error"];
        let mut rows = Rows::new(&columns);
        for message in &messages {
            rows.push(row(message));
        }
        rows.print();
    }
    if let Some(last) = messages.last().filter(|_| i64::try_from(messages.len()) == Ok(limit)) {
        output::note(&format!("there may be more messages: --cursor {}", last.position()));
    }
    Ok(ExitStatus::Success)
}

fn row(message: &FailedMessageSummary) -> [Field; 8] {
    let FailedMessageSummary { status, reason, .. } = message;
    let kind = StatusKind::from_name(status);
    let colour = match kind {
        Some(StatusKind::Dead) => Color::Red,
        Some(StatusKind::Retrying | StatusKind::Waiting) => Color::Yellow,
        Some(StatusKind::Resolved) => Color::Green,
        Some(StatusKind::Discarded) | None => Color::Grey,
    };
    let state = match reason {
        Some(reason) if kind == Some(StatusKind::Dead) && message.overtaken_by.is_some() => {
            format!("{status}: {reason}, overtaken")
        }
        Some(reason) if kind == Some(StatusKind::Dead) => format!("{status}: {reason}"),
        _ => match message.behind {
            Some(behind) => format!("{status} behind {behind}"),
            None => status.clone(),
        },
    };
    [
        Field::new(message.id),
        Field::new(output::short_time(message.last_failed_at)),
        Field::new(&message.queue),
        Field::new(&message.kind),
        Field::new(message.message_id.as_deref().unwrap_or("—")),
        Field::coloured(state, colour),
        Field::new(message.attempts),
        Field::new(&message.error),
    ]
}

pub(super) async fn groups(app: &App, limit: i64, json: bool) -> anyhow::Result<ExitStatus> {
    let (groups, all) = app.views().dead_letter_groups(limit).await?;
    let more = all.saturating_sub(limit);
    if json {
        output::json(&groups)?;
        if more > 0 {
            output::note(&format!("and {more} more groups: --limit {all}"));
        }
        return Ok(ExitStatus::Success);
    }
    if groups.is_empty() {
        output::line("no dead letters");
        return Ok(ExitStatus::Success);
    }
    let mut rows = Rows::new(&["group", "count", "queue", "type", "reason", "error", "last"]);
    for group in groups {
        rows.push([
            Field::coloured(group.group, Color::Cyan),
            Field::coloured(group.count, Color::Red),
            Field::new(group.queue),
            Field::new(group.kind),
            Field::new(group.reason.unwrap_or_default()),
            Field::new(group.error),
            Field::new(output::short_time(group.last_failed_at)),
        ]);
    }
    rows.print();
    if more > 0 {
        output::line(&format!("and {more} more: --limit {all}"));
    }
    output::note(
        "next: `allocation dead-letters list --group G`, then `show ID`; after a fix, `retry --group G`",
    );
    Ok(ExitStatus::Success)
}

pub(super) async fn show(app: &App, id: i64, json: bool) -> anyhow::Result<ExitStatus> {
    let Some(detail) = app.views().failed_message(id).await? else {
        output::error(&format!("there is no failed message {id}"));
        return Ok(ExitStatus::Incomplete);
    };
    if json {
        output::json(&detail)?;
    } else {
        print(&detail);
    }
    Ok(ExitStatus::Success)
}

/// Prints the messages that match at the beginning, page by page, so that memory does not limit their number.
pub(super) async fn export(app: &App, filter: &FailedMessageFilter) -> anyhow::Result<ExitStatus> {
    let views = app.views();
    let mut lines = JsonLines::new();
    'export: for page in views.failed_message_pages(filter).await? {
        for detail in views.failed_message_details(&page).await? {
            if lines.write(&detail)?.is_break() {
                break 'export;
            }
        }
    }
    lines.finish()?;
    Ok(ExitStatus::Success)
}

fn print(detail: &FailedMessageDetail) {
    let FailedMessageDetail { summary, group, properties, headers, body, history, actions, .. } = detail;
    print_summary(summary, group);
    if let Some(error) = &detail.held_because {
        output::line(&format!("waits      {error}"));
    }
    print_values("properties", properties);
    print_values("headers", headers);
    output::line("body");
    match body {
        Value::String(text) => output::lines(text),
        bytes => output::line(&format!("  {bytes}")),
    }
    output::line("history");
    history.iter().for_each(print_attempt);
    for action in actions {
        let why = action.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let user = action.database_user.as_deref().unwrap_or("unknown");
        let from = action.address.as_deref().map(|address| format!(" from {address}")).unwrap_or_default();
        let at = output::long_time(action.at);
        let (what, who) = (&action.what, &action.who);
        output::line(&format!("  {at}  {what} by {who} (database user {user}{from}){why}"));
    }
}

fn print_summary(summary: &FailedMessageSummary, group: &str) {
    let FailedMessageSummary { id, queue, kind, message_id, status, reason, error, .. } = summary;
    let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    output::line(&format!("message    {id} in {queue}"));
    output::line(&format!("status     {status}{reason}"));
    output::line(&format!("error      {error}"));
    output::line(&format!("group      {group}"));
    output::line(&format!("type       {kind}"));
    output::line(&format!("message id {}", message_id.as_deref().unwrap_or("none")));
    output::line(&format!("attempts   {}", summary.attempts));
    if let Some(behind) = summary.behind {
        output::line(&format!("behind     {behind}, an earlier message for the same line or batch"));
    }
    if let Some(message_id) = &summary.overtaken_by {
        output::line(&format!(
            "overtaken  by {message_id}, a later command for the same line or batch; see `retry --overtaken`"
        ));
    }
    if let Some(due) = summary.due_at {
        output::line(&format!("due        {}", output::long_time(due)));
    }
}

fn print_values(title: &str, values: &Value) {
    let Value::Object(values) = values else { return };
    output::line(title);
    for (name, value) in values {
        output::line(&format!("  {name} = {}", escape_json(&value.to_string())));
    }
}

fn print_attempt(attempt: &AttemptRow) {
    let AttemptRow { attempt, at, host, version, duration_ms, error, chain, trace_id } = attempt;
    let at = output::long_time(*at);
    let version = version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
    output::line(&format!("  {at}  attempt {attempt} on {host}{version}, {duration_ms} ms: {error}"));
    for cause in chain {
        output::line(&format!("    because {cause}"));
    }
    if let Some(trace_id) = trace_id {
        output::line(&format!("    trace {trace_id}"));
    }
}
