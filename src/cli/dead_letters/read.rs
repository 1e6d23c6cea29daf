//! Looking: `list`, `groups`, `show` and `export` change nothing.

use comfy_table::{Cell, Color};
use serde_json::Value;

use crate::{
    bootstrap::App,
    ports::failed_messages::{FailedMessageFilter, FailedMessages as _},
    views::{AttemptRow, FailedMessageDetail, FailedMessageSummary},
};

use super::super::{ExitStatus, output};

pub(super) async fn list(
    app: &App,
    filter: &FailedMessageFilter,
    limit: i64,
    cursor: Option<i64>,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let letters = app.views().dead_letters(filter, limit, cursor).await?;
    if json {
        output::json(&letters)?;
    } else if letters.is_empty() {
        output::line("none");
    } else {
        let mut table =
            output::table(&["id", "failed", "queue", "type", "message id", "status", "tries", "error"]);
        for letter in &letters {
            table.add_row(row(letter));
        }
        output::line(&table.to_string());
    }
    if let Some(last) = letters.last().filter(|_| i64::try_from(letters.len()) == Ok(limit)) {
        output::note(&format!("there may be more: --cursor {}", last.id));
    }
    Ok(ExitStatus::Success)
}

fn row(letter: &FailedMessageSummary) -> Vec<Cell> {
    let (state, colour) = match (letter.status.as_str(), &letter.reason) {
        ("dead", Some(reason)) => (format!("dead: {reason}"), Color::Red),
        ("retrying", _) => ("retrying".to_owned(), Color::Yellow),
        ("resolved", _) => ("resolved".to_owned(), Color::Green),
        (status, _) => (status.to_owned(), Color::Grey),
    };
    vec![
        Cell::new(letter.id),
        Cell::new(output::short_time(letter.last_failed_at)),
        Cell::new(&letter.queue),
        Cell::new(output::sanitize(&letter.kind)),
        Cell::new(output::sanitize(letter.message_id.as_deref().unwrap_or("—"))),
        Cell::new(state).fg(colour),
        Cell::new(letter.attempts),
        Cell::new(output::sanitize(&letter.error)),
    ]
}

pub(super) async fn groups(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let groups = app.views().dead_letter_groups().await?;
    if json {
        output::json(&groups)?;
        return Ok(ExitStatus::Success);
    }
    if groups.is_empty() {
        output::line("no dead letters");
        return Ok(ExitStatus::Success);
    }
    let mut table = output::table(&["group", "count", "queue", "type", "reason", "error", "last"]);
    for group in groups {
        table.add_row(vec![
            Cell::new(group.group).fg(Color::Cyan),
            Cell::new(group.count).fg(Color::Red),
            Cell::new(group.queue),
            Cell::new(output::sanitize(&group.kind)),
            Cell::new(group.reason.unwrap_or_default()),
            Cell::new(output::sanitize(&group.error)),
            Cell::new(output::short_time(group.last_failed_at)),
        ]);
    }
    output::line(&table.to_string());
    output::note(
        "next: `allocation dead-letters list --group G`, then `show ID`; `retry --group G` brings them back",
    );
    Ok(ExitStatus::Success)
}

pub(super) async fn show(app: &App, id: i64, json: bool) -> anyhow::Result<ExitStatus> {
    let Some(detail) = app.views().dead_letter(id).await? else {
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

/// One by one, so that any number fits in memory, and those that are meant when it begins.
pub(super) async fn export(app: &App, filter: &FailedMessageFilter) -> anyhow::Result<ExitStatus> {
    let views = app.views();
    for id in app.ledger().matching(filter).await? {
        if let Some(detail) = views.dead_letter(id).await? {
            output::line(&serde_json::to_string(&detail)?);
        }
    }
    Ok(ExitStatus::Success)
}

fn print(detail: &FailedMessageDetail) {
    let FailedMessageDetail { letter, group, properties, headers, body, history, actions, .. } = detail;
    let reason = letter.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    output::line(&format!("message    {} in {}", letter.id, letter.queue));
    output::line(&format!("status     {}{reason}", letter.status));
    output::line(&format!("error      {}", output::sanitize(&letter.error)));
    output::line(&format!("group      {group}"));
    output::line(&format!("type       {}", output::sanitize(&letter.kind)));
    output::line(&format!("message id {}", output::sanitize(letter.message_id.as_deref().unwrap_or("none"))));
    output::line(&format!("attempts   {}", letter.attempts));
    if let Some(due) = letter.due_at {
        output::line(&format!("due        {}", output::long_time(due)));
    }
    if let Some(why) = &detail.held_because {
        output::line(&format!("waits      {}", output::sanitize(why)));
    }
    for (title, values) in [("properties", properties), ("headers", headers)] {
        if let Value::Object(values) = values {
            output::line(title);
            for (name, value) in values {
                output::line(&format!(
                    "  {} = {}",
                    output::sanitize(name),
                    output::sanitize(&value.to_string())
                ));
            }
        }
    }
    output::line("body");
    match body {
        Value::String(text) => output::line(&output::printable_lines(text)),
        bytes => output::line(&format!("  {bytes}")),
    }
    output::line("history");
    for AttemptRow { attempt, at, host, duration_ms, error, chain } in history {
        let (at, error) = (output::long_time(*at), output::sanitize(error));
        output::line(&format!("  {at}  attempt {attempt} on {host}, {duration_ms} ms: {error}"));
        for cause in chain {
            output::line(&format!("    because {}", output::sanitize(cause)));
        }
    }
    for action in actions {
        let why = action.why.as_deref().map(|why| format!(": {}", output::sanitize(why))).unwrap_or_default();
        output::line(&format!("  {}  {} by {}{why}", output::long_time(action.at), action.what, action.who));
    }
}
