//! `edit`: replaces the content of a dead letter.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use similar::TextDiff;

use crate::{
    bootstrap::App,
    ports::{
        error::StoreError,
        failed_messages::{ActionResult, Operator},
    },
    service::failed_messages::{self, EditError, EditRequest},
    views::FailedMessageDetail,
};

use super::super::{exit::ExitStatus, output};

/// The arguments of `edit`; what is absent stays as it is.
pub(super) struct EditArgs {
    pub(super) id: i64,
    pub(super) body: Option<PathBuf>,
    pub(super) kind: Option<String>,
    pub(super) message_id: Option<String>,
}

pub(super) async fn edit(app: &App, args: EditArgs, by: &Operator, json: bool) -> anyhow::Result<ExitStatus> {
    let Some(shown) = app.views().failed_message(args.id).await? else {
        output::error(&format!("there is no failed message {}", args.id));
        return Ok(ExitStatus::Incomplete);
    };
    let Some(message_id) = args.message_id.or_else(|| shown.summary.message_id.clone()) else {
        output::error("the message has no message id; set one with --message-id");
        return Ok(ExitStatus::UsageError);
    };
    let body = match args.body {
        Some(file) => read(&file)?,
        None => in_editor(&shown)?,
    };
    output::note(&diff(&shown.bytes, &body));
    let kind = args.kind.unwrap_or(shown.summary.kind);
    let request = EditRequest {
        id: args.id,
        queue: shown.queue_name,
        shown_generation: shown.generation,
        kind: kind.clone(),
        message_id,
        body,
    };
    let edited = failed_messages::edit(&app.failed_messages(), app.limits(), request, by).await;
    report(edited, &kind, json)
}

fn report(edited: Result<ActionResult, EditError>, kind: &str, json: bool) -> anyhow::Result<ExitStatus> {
    match edited {
        Ok(ActionResult::Applied) => print_report(1, 0, "replaced, retry scheduled", json),
        Ok(ActionResult::Skipped(reason)) => {
            print_report(0, 1, &reason.to_string(), json).map(|_| ExitStatus::Incomplete)
        }
        Err(EditError::Store(StoreError::Conflict(_))) => {
            output::error(
                "another failed message has this id, type and body, or this one is being handled; nothing was changed",
            );
            Ok(ExitStatus::Incomplete)
        }
        Err(EditError::Store(error)) => Err(error.into()),
        Err(error) => {
            output::error(&format!("not a valid {}: {error}; nothing was changed", output::sanitize(kind)));
            Ok(ExitStatus::Incomplete)
        }
    }
}

fn print_report(done: u8, skipped: u8, text: &str, json: bool) -> anyhow::Result<ExitStatus> {
    if json {
        output::json(&serde_json::json!({ "matched": 1, "done": done, "skipped": skipped, "failed": 0 }))?;
    } else {
        output::line(text);
    }
    Ok(ExitStatus::Success)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body)?;
        return Ok(body);
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Opens the operator's editor on the body, indented if it is JSON.
fn in_editor(shown: &FailedMessageDetail) -> anyhow::Result<Vec<u8>> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.context("neither $VISUAL nor $EDITOR is set; set one or use --body FILE")?;
    let pretty = serde_json::from_slice::<serde_json::Value>(&shown.bytes)
        .and_then(|json| serde_json::to_vec_pretty(&json));
    // Only the owner can read it, and it is removed at the end.
    let mut file = tempfile::Builder::new().prefix("allocation-").suffix(".json").tempfile()?;
    file.write_all(pretty.as_deref().unwrap_or(&shown.bytes))?;
    // The variable may have arguments: "code --wait".
    let run = format!("{editor} \"$1\"");
    let status = Command::new("sh").arg("-c").arg(run).arg("editor").arg(file.path()).status()?;
    anyhow::ensure!(status.success(), "the editor ended with {status}; nothing was changed");
    Ok(fs::read(file.path())?)
}

fn diff(old: &[u8], new: &[u8]) -> String {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let diff = TextDiff::from_lines(&*old, &*new)
        .unified_diff()
        .header("before", "after")
        .missing_newline_hint(false)
        .to_string();
    output::printable_lines(&diff)
}
