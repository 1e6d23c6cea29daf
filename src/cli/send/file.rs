//! Sends the commands of a file of JSON lines, or of standard input.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use crate::{
    ports::{
        admin::{CommandSender, OutboundCommand},
        routing::queue_of,
    },
    views::Views,
};

use super::{args::new_message_id, check::Check, follow::wait_handled, report::SendReport};

/// Commands published together; small enough for a progress bar that moves.
const WINDOW: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    message_id: Option<String>,
    body: Box<RawValue>,
}

impl Line {
    fn parse(text: &str) -> Result<OutboundCommand, String> {
        let line: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if line.exceeds_short_strings() {
            return Err("type and message_id are limited to 255 bytes each".into());
        }
        Ok(OutboundCommand {
            kind: line.kind,
            message_id: line.message_id.unwrap_or_else(new_message_id),
            body: line.body.get().as_bytes().to_vec(),
        })
    }

    /// AMQP properties are strings of at most 255 bytes.
    fn exceeds_short_strings(&self) -> bool {
        let long = |text: &str| text.len() > 255;
        long(&self.kind) || self.message_id.as_deref().is_some_and(long)
    }
}

/// How the commands of a file are sent.
pub(super) struct FileSender<S> {
    pub(super) sender: S,
    pub(super) check: Check,
    /// For `--in-order`: where the progress of earlier commands is read.
    pub(super) in_order: Option<Views>,
}

impl<S: CommandSender> FileSender<S> {
    /// Sends the commands that were collected if the next one must not be sent together with them.
    async fn flush_before(
        &self,
        next: &OutboundCommand,
        window: &mut Vec<OutboundCommand>,
        report: &mut SendReport,
    ) -> anyhow::Result<()> {
        let last = window.last().and_then(|last| queue_of(&last.kind));
        let changes_queue = self.in_order.is_some() && last.is_some() && last != queue_of(&next.kind);
        if window.len() == WINDOW || changes_queue {
            report.send(&self.sender, std::mem::take(window)).await;
        }
        match &self.in_order {
            Some(views) if changes_queue => wait_handled(views, report).await,
            _ => Ok(()),
        }
    }
}

/// Sends every valid command of the file. Any other line is reported and counted as failed.
pub(super) async fn send_file(
    sender: &FileSender<impl CommandSender>,
    file: &Path,
    report: &mut SendReport,
) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", file.display());
    let progress = progress_bar(file).await?;
    let mut lines = open(file).await.with_context(context)?.lines();
    let mut window = Vec::with_capacity(WINDOW);
    let mut number = 0;
    while let Some(line) = lines.next_line().await.with_context(context)? {
        number += 1;
        progress.inc(line.len() as u64 + 1);
        if line.trim().is_empty() {
            continue;
        }
        let checked = Line::parse(&line).and_then(|command| {
            sender.check.apply(&command).map_err(|error| error.to_string())?;
            Ok(command)
        });
        match checked {
            Ok(command) => {
                sender.flush_before(&command, &mut window, report).await?;
                window.push(command);
            }
            Err(error) => report.fail(&format!("{} line {number}: {error}", file.display())),
        }
    }
    report.send(&sender.sender, window).await;
    progress.finish_and_clear();
    Ok(())
}

async fn open(file: &Path) -> io::Result<Box<dyn AsyncBufRead + Send + Unpin>> {
    Ok(if file == Path::new("-") {
        Box::new(BufReader::new(tokio::io::stdin()))
    } else {
        Box::new(BufReader::new(tokio::fs::File::open(file).await?))
    })
}

async fn progress_bar(file: &Path) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % {eta_precise}")?;
    let length = tokio::fs::metadata(file).await.ok().map(|metadata| metadata.len());
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style);
    if length.is_none() || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    Ok(bar)
}
