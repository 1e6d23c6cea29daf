//! `edit`: replaces the content of a dead letter.

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{self, Child, Command},
    time::Duration,
};

use anyhow::Context as _;
use similar::TextDiff;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    bootstrap::App,
    ports::{
        error::StoreError,
        failed_messages::{ActionResult, Operator},
    },
    service::{
        failed_messages::{self, Content, EditError, EditRequest, edited_body},
        json_text::indented,
    },
    views::FailedMessageDetail,
};

use super::super::{exit::ExitStatus, output};

/// How often the editor is asked whether it has ended.
const EDITOR_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The arguments of `edit`; what is absent stays as it is.
pub(super) struct EditArgs {
    pub(super) id: i64,
    pub(super) body: Option<PathBuf>,
    pub(super) kind: Option<String>,
    pub(super) message_id: Option<String>,
    pub(super) overtaken: bool,
}

pub(super) async fn edit(app: &App, args: EditArgs, by: &Operator, json: bool) -> anyhow::Result<ExitStatus> {
    app.check_database().await?;
    let Some(detail) = app.views().failed_message(args.id).await? else {
        output::error(&format!("there is no failed message {}", args.id));
        return Ok(ExitStatus::Incomplete);
    };
    if detail.summary.message_id.is_none() && args.message_id.is_none() {
        output::error("the message has no message id; set one with --message-id");
        return Ok(ExitStatus::UsageError);
    }
    let shown = Content {
        kind: detail.summary.kind.clone(),
        message_id: detail.summary.message_id.clone().unwrap_or_default(),
        body: detail.bytes.clone(),
    };
    let body = edited_body(&shown.body, new_body(&detail, &args).await?);
    if body != shown.body {
        output::note_lines(&diff(&shown.body, &body));
    }
    let edited = Content {
        kind: args.kind.unwrap_or_else(|| shown.kind.clone()),
        message_id: args.message_id.unwrap_or_else(|| shown.message_id.clone()),
        body,
    };
    let kind = edited.kind.clone();
    let request = EditRequest {
        id: args.id,
        queue: detail.queue_name,
        shown_generation: detail.generation,
        shown,
        edited,
        even_overtaken: args.overtaken,
    };
    let result = failed_messages::edit(&app.failed_messages(), app.limits(), request, by).await;
    report(result, &kind, json)
}

/// The body from the file, from the editor, or the stored one if something else is to be changed.
async fn new_body(detail: &FailedMessageDetail, args: &EditArgs) -> anyhow::Result<Vec<u8>> {
    match &args.body {
        Some(file) => read(file),
        None if args.kind.is_some() || args.message_id.is_some() => Ok(detail.bytes.clone()),
        None => in_editor(&detail.bytes).await,
    }
}

fn report(edited: Result<ActionResult, EditError>, kind: &str, json: bool) -> anyhow::Result<ExitStatus> {
    match edited {
        Ok(ActionResult::Applied) => print_report(1, 0, "replaced, retry scheduled", json),
        Ok(ActionResult::Skipped(reason)) => {
            print_report(0, 1, &reason.to_string(), json).map(|_| ExitStatus::Incomplete)
        }
        Err(unchanged @ EditError::Unchanged) => {
            let text = format!("{unchanged}; the message was not retried");
            print_report(0, 1, &text, json).map(|_| ExitStatus::Incomplete)
        }
        Err(EditError::Store(error))
            if error.is_conflict() || matches!(error, StoreError::AlreadyExists(_)) =>
        {
            output::error(
                "another failed message has this id, type and body, or this one is being handled; nothing was changed",
            );
            Ok(ExitStatus::Incomplete)
        }
        Err(EditError::Store(error)) => Err(error.into()),
        Err(error) => {
            output::error(&format!("not a valid {kind}: {error}; nothing was changed"));
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
async fn in_editor(stored: &[u8]) -> anyhow::Result<Vec<u8>> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.context("neither $VISUAL nor $EDITOR is set; set one or use --body FILE")?;
    // Only the owner can read it. It is removed at the end, with the copies that editors write beside the file.
    let private = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("allocation-").permissions(private).tempdir()?;
    let file = folder.path().join("body.json");
    let mut options = File::options();
    let mut body = options.write(true).create_new(true).mode(0o600).open(&file)?;
    body.write_all(indented(stored).as_deref().map_or(stored, str::as_bytes))?;
    drop(body);
    // The variable may have arguments: "code --wait".
    let run = format!("{editor} \"$1\"");
    let mut process = Command::new("sh").arg("-c").arg(run).arg("editor").arg(&file).spawn()?;
    let status = wait_for_editor(&mut process).await?;
    anyhow::ensure!(status.success(), "the editor ended with {status}; nothing was changed");
    Ok(fs::read(file)?)
}

/// Waits for the end of the editor. A signal that would end this process ends the editor instead, so that the file is removed.
async fn wait_for_editor(editor: &mut Child) -> anyhow::Result<process::ExitStatus> {
    // Ctrl-C in a terminal reaches the editor, too, which may use it.
    let _interrupt = signal(SignalKind::interrupt())?;
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    loop {
        if let Some(status) = editor.try_wait()? {
            return Ok(status);
        }
        tokio::select! {
            () = tokio::time::sleep(EDITOR_POLL_INTERVAL) => continue,
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        editor.kill()?;
        editor.wait()?;
        anyhow::bail!("interrupted; nothing was changed");
    }
}

/// The changed lines, with one field of JSON in each.
fn diff(old: &[u8], new: &[u8]) -> String {
    let lines = |body: &[u8]| indented(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    TextDiff::from_lines(lines(old).as_str(), lines(new).as_str())
        .unified_diff()
        .header("before", "after")
        .missing_newline_hint(false)
        .to_string()
}
