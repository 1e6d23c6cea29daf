//! `edit`: a body that cannot be handled is replaced by one that can.

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
    service::failed_messages::{self, EditError},
    views::FailedMessageDetail,
};

use super::super::{ExitStatus, output};

/// What the operator said.
pub(super) struct EditRequest {
    pub(super) id: i64,
    pub(super) body: Option<PathBuf>,
    pub(super) kind: Option<String>,
    pub(super) message_id: Option<String>,
}

pub(super) async fn edit(
    app: &App,
    request: EditRequest,
    by: Operator,
    json: bool,
) -> anyhow::Result<ExitStatus> {
    let Some(letter) = app.views().dead_letter(request.id).await? else {
        output::error(&format!("there is no failed message {}", request.id));
        return Ok(ExitStatus::Incomplete);
    };
    let Some(message_id) = request.message_id.or_else(|| letter.letter.message_id.clone()) else {
        output::error(
            "the message has no id by which a repeat could be recognised; give it one with --message-id",
        );
        return Ok(ExitStatus::UsageError);
    };
    let kind = request.kind.unwrap_or_else(|| letter.letter.kind.clone());
    let draft = match request.body {
        Some(file) => read(&file)?,
        None => in_editor(&letter)?,
    };
    output::note(&diff(&letter.bytes, &draft));
    let shown = letter.generation;
    match failed_messages::edit(&app.ledger(), request.id, shown, &kind, &message_id, &draft, &by).await {
        Ok(ActionResult::Applied) => report(1, 0, "replaced and on its way", json),
        Ok(ActionResult::Skipped(why)) => report(0, 1, why, json).map(|_| ExitStatus::Incomplete),
        Err(EditError::Invalid(error)) => {
            output::error(&format!("it is no valid {kind}: {error}; nothing was changed"));
            Ok(ExitStatus::Incomplete)
        }
        Err(EditError::Store(StoreError::Conflict(_))) => {
            output::error(
                "another failed message has this id, type and body, or this one is being handled; nothing was changed",
            );
            Ok(ExitStatus::Incomplete)
        }
        Err(EditError::Store(error)) => Err(error.into()),
    }
}

fn report(done: u8, skipped: u8, words: &str, json: bool) -> anyhow::Result<ExitStatus> {
    if json {
        output::json(&serde_json::json!({ "matched": 1, "done": done, "skipped": skipped, "failed": 0 }))?;
    } else {
        output::line(words);
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
fn in_editor(letter: &FailedMessageDetail) -> anyhow::Result<Vec<u8>> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor =
        editor.context("neither $VISUAL nor $EDITOR says which editor to open; or give --body FILE")?;
    let pretty = serde_json::from_slice::<serde_json::Value>(&letter.bytes)
        .and_then(|json| serde_json::to_vec_pretty(&json));
    // Readable by nobody else, and gone when this ends.
    let mut file = tempfile::Builder::new().prefix("allocation-").suffix(".json").tempfile()?;
    file.write_all(pretty.as_deref().unwrap_or(&letter.bytes))?;
    // Editors come with arguments: "code --wait".
    let run = format!("{editor} \"$1\"");
    let status = Command::new("sh").arg("-c").arg(run).arg("editor").arg(file.path()).status()?;
    anyhow::ensure!(status.success(), "the editor ended with {status}; nothing was changed");
    Ok(fs::read(file.path())?)
}

fn diff(old: &[u8], new: &[u8]) -> String {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let diff = TextDiff::from_lines(&*old, &*new)
        .unified_diff()
        .header("was", "is")
        .missing_newline_hint(false)
        .to_string();
    output::printable_lines(&diff)
}
