//! Looking: `list`, `groups`, `show` and `export` change nothing.

use comfy_table::{Cell, Color};
use serde_json::Value;

use crate::{
    bootstrap::App,
    ports::ledger::{Ledger as _, Selection},
    views::{Attempt, DeadLetter, DeadLetterDetail},
};

use super::super::{Done, output};

pub(super) async fn list(
    app: &App,
    selection: &Selection,
    limit: i64,
    cursor: Option<i64>,
    json: bool,
) -> anyhow::Result<Done> {
    let letters = app.views().dead_letters(selection, limit, cursor).await?;
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
        output::aside(&format!("there may be more: --cursor {}", last.id));
    }
    Ok(Done::All)
}

fn row(letter: &DeadLetter) -> Vec<Cell> {
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
        Cell::new(output::printable(&letter.kind)),
        Cell::new(output::printable(letter.message_id.as_deref().unwrap_or("—"))),
        Cell::new(state).fg(colour),
        Cell::new(letter.attempts),
        Cell::new(output::printable(&letter.error)),
    ]
}

pub(super) async fn groups(app: &App, json: bool) -> anyhow::Result<Done> {
    let groups = app.views().dead_letter_groups().await?;
    if json {
        output::json(&groups)?;
        return Ok(Done::All);
    }
    if groups.is_empty() {
        output::line("no dead letters");
        return Ok(Done::All);
    }
    let mut table = output::table(&["group", "count", "queue", "type", "reason", "error", "last"]);
    for group in groups {
        table.add_row(vec![
            Cell::new(group.group).fg(Color::Cyan),
            Cell::new(group.count).fg(Color::Red),
            Cell::new(group.queue),
            Cell::new(output::printable(&group.kind)),
            Cell::new(group.reason.unwrap_or_default()),
            Cell::new(output::printable(&group.error)),
            Cell::new(output::short_time(group.last_failed_at)),
        ]);
    }
    output::line(&table.to_string());
    output::aside(
        "next: `allocation dead-letters list --group G`, then `show ID`; `retry --group G` brings them back",
    );
    Ok(Done::All)
}

pub(super) async fn show(app: &App, id: i64, json: bool) -> anyhow::Result<Done> {
    let Some(detail) = app.views().dead_letter(id).await? else {
        output::error(&format!("there is no failed message {id}"));
        return Ok(Done::NotAll);
    };
    if json {
        output::json(&detail)?;
    } else {
        print(&detail);
    }
    Ok(Done::All)
}

/// One by one, so that any number fits in memory, and those that are meant when it begins.
pub(super) async fn export(app: &App, selection: &Selection) -> anyhow::Result<Done> {
    let views = app.views();
    for id in app.ledger().matching(selection).await? {
        if let Some(detail) = views.dead_letter(id).await? {
            output::line(&serde_json::to_string(&detail)?);
        }
    }
    Ok(Done::All)
}

fn print(detail: &DeadLetterDetail) {
    let DeadLetterDetail { letter, group, properties, headers, body, history, actions, .. } = detail;
    let reason = letter.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    output::line(&format!("message    {} in {}", letter.id, letter.queue));
    output::line(&format!("status     {}{reason}", letter.status));
    output::line(&format!("error      {}", output::printable(&letter.error)));
    output::line(&format!("group      {group}"));
    output::line(&format!("type       {}", output::printable(&letter.kind)));
    output::line(&format!(
        "message id {}",
        output::printable(letter.message_id.as_deref().unwrap_or("none"))
    ));
    output::line(&format!("attempts   {}", letter.attempts));
    if let Some(due) = letter.due_at {
        output::line(&format!("due        {}", output::long_time(due)));
    }
    if let Some(why) = &detail.held_because {
        output::line(&format!("waits      {}", output::printable(why)));
    }
    for (title, values) in [("properties", properties), ("headers", headers)] {
        if let Value::Object(values) = values {
            output::line(title);
            for (name, value) in values {
                output::line(&format!(
                    "  {} = {}",
                    output::printable(name),
                    output::printable(&value.to_string())
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
    for Attempt { attempt, at, host, duration_ms, error, chain } in history {
        let (at, error) = (output::long_time(*at), output::printable(error));
        output::line(&format!("  {at}  attempt {attempt} on {host}, {duration_ms} ms: {error}"));
        for cause in chain {
            output::line(&format!("    because {}", output::printable(cause)));
        }
    }
    for action in actions {
        let why =
            action.why.as_deref().map(|why| format!(": {}", output::printable(why))).unwrap_or_default();
        output::line(&format!("  {}  {} by {}{why}", output::long_time(action.at), action.what, action.who));
    }
}
