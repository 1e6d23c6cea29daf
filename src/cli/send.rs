//! `allocation send`: an upstream system's tool. It publishes with confirms and exits 0 only if all were confirmed.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use uuid::Uuid;

use crate::{
    bootstrap::App,
    ports::{
        admin::{CommandSender, OutboundCommand},
        outbox::PublishOutcome,
    },
    service::decode::checked_id,
    views::{SendProgress, Views},
};

use super::{ExitStatus, output};

/// Published together; small enough that the progress bar moves.
const WINDOW: usize = 500;
/// With --follow: how often the outcome is looked at, and after how long without progress it is given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// Enqueue commands, as an upstream system does.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub(super) struct Send {
    /// JSON lines, each `{"type", "message_id" (may be absent), "body"}`; - is standard input.
    #[arg(long, required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Wait until all are handled, and say what became of them.
    #[arg(long)]
    follow: bool,
    #[command(subcommand)]
    one: Option<SingleCommand>,
}

/// One command, given by its fields.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
enum SingleCommand {
    /// A batch exists from now on, and its SKU with it.
    CreateBatch {
        /// The new batch's unique reference.
        #[arg(long = "ref", value_name = "REF")]
        reference: String,
        /// What it holds.
        #[arg(long)]
        sku: String,
        /// How many were bought.
        #[arg(long)]
        qty: u32,
        /// When it arrives, YYYY-MM-DD; absent when it is in the warehouse.
        #[arg(long)]
        eta: Option<String>,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Place an order line in one batch, or keep it waiting.
    Allocate {
        /// The order.
        #[arg(long)]
        orderid: String,
        /// What is ordered.
        #[arg(long)]
        sku: String,
        /// How many.
        #[arg(long)]
        qty: u32,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Take an order line back.
    Deallocate {
        /// The order.
        #[arg(long)]
        orderid: String,
        /// Which of its lines.
        #[arg(long)]
        sku: String,
        #[command(flatten)]
        id: MessageIdArg,
    },
    /// Say what a batch holds in truth.
    ChangeBatchQuantity {
        /// The batch.
        #[arg(long)]
        batchref: String,
        /// What it holds.
        #[arg(long)]
        qty: u32,
        /// Your count of such changes; a late one is skipped.
        #[arg(long)]
        revision: Option<i64>,
        #[command(flatten)]
        id: MessageIdArg,
    },
}

#[derive(Debug, Args)]
struct MessageIdArg {
    /// The message id; the same id is handled once. Made up if absent.
    #[arg(long)]
    message_id: Option<String>,
}

/// A line of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    message_id: Option<String>,
    body: Box<RawValue>,
}

impl Line {
    /// For the properties of an AMQP message.
    fn is_too_long(&self) -> bool {
        let short = |text: &str| text.len() <= 255;
        !short(&self.kind) || !self.message_id.as_deref().is_none_or(short)
    }
}

impl SingleCommand {
    fn command(self) -> OutboundCommand {
        let (kind, body, id) = match self {
            Self::CreateBatch { reference, sku, qty, eta, id } => {
                ("create_batch", json!({ "ref": reference, "sku": sku, "qty": qty, "eta": eta }), id)
            }
            Self::Allocate { orderid, sku, qty, id } => {
                ("allocate", json!({ "orderid": orderid, "sku": sku, "qty": qty }), id)
            }
            Self::Deallocate { orderid, sku, id } => {
                ("deallocate", json!({ "orderid": orderid, "sku": sku }), id)
            }
            Self::ChangeBatchQuantity { batchref, qty, revision, id } => {
                let mut body = json!({ "batchref": batchref, "qty": qty });
                if let Some(revision) = revision {
                    body["revision"] = revision.into();
                }
                ("change_batch_quantity", body, id)
            }
        };
        OutboundCommand {
            kind: kind.into(),
            message_id: id.message_id.unwrap_or_else(new_id),
            body: body.to_string().into_bytes(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "an upstream system makes up the ids of its messages here")]
fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// How far a sending came.
#[derive(Default)]
struct SendReport {
    confirmed: usize,
    failed: usize,
    /// For --follow: what was sent.
    ids: BTreeSet<String>,
    orderids: BTreeSet<String>,
    took: Duration,
}

impl Send {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let views = app.views();
        let events_before = if self.follow { views.recorded_totals().await?.events } else { 0 };
        let begin = Instant::now();
        let mut tally = SendReport::default();
        let sender = app.sender();
        match (self.one, self.file) {
            (Some(_), Some(_)) => {
                output::error("send one command, or a file of them");
                return Ok(ExitStatus::UsageError);
            }
            (Some(one), None) => {
                let command = one.command();
                if let Err(error) = checked_id(&command.message_id) {
                    output::error(&error.to_string());
                    return Ok(ExitStatus::UsageError);
                }
                tally.send(&sender, &[command]).await?;
            }
            (None, Some(file)) => send_file(&sender, &file, &mut tally).await?,
            (None, None) => unreachable!("the command line requires one of them"),
        }
        tally.took = begin.elapsed();
        let outcome =
            if self.follow { Some(follow(&views, &tally, events_before, begin).await?) } else { None };
        let all_handled =
            outcome.as_ref().is_none_or(|followed| followed.outcome.handled == as_i64(tally.ids.len()));
        if json {
            output::json(&report(&tally, outcome.as_ref()))?;
        } else {
            tell(&tally, outcome.as_ref());
        }
        Ok(if tally.failed == 0 && all_handled { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

async fn send_file(sender: &impl CommandSender, file: &Path, tally: &mut SendReport) -> anyhow::Result<()> {
    let progress = progress_bar(file).await?;
    let opened: Box<dyn AsyncBufRead + std::marker::Send + Unpin> = if file == Path::new("-") {
        Box::new(BufReader::new(tokio::io::stdin()))
    } else {
        let opened =
            tokio::fs::File::open(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    let mut lines = opened.lines();
    let mut window = Vec::with_capacity(WINDOW);
    let mut number = 0;
    while let Some(line) =
        lines.next_line().await.with_context(|| format!("cannot read {}", file.display()))?
    {
        number += 1;
        progress.inc(line.len() as u64 + 1);
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Line>(&line) {
            Ok(line) if line.is_too_long() => {
                let what = "type and message_id may have 255 bytes each";
                tally.fail(&format!("{} line {number}: {what}", file.display()));
            }
            Ok(line) => window.push(OutboundCommand {
                kind: line.kind,
                message_id: line.message_id.unwrap_or_else(new_id),
                body: line.body.get().as_bytes().to_vec(),
            }),
            Err(error) => tally.fail(&format!("{} line {number}: {error}", file.display())),
        }
        if window.len() == WINDOW {
            tally.send(sender, &std::mem::take(&mut window)).await?;
        }
    }
    tally.send(sender, &window).await?;
    progress.finish_and_clear();
    Ok(())
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

impl SendReport {
    async fn send(
        &mut self,
        sender: &impl CommandSender,
        commands: &[OutboundCommand],
    ) -> anyhow::Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        let outcomes = sender.send(commands).await;
        for (command, outcome) in commands.iter().zip(outcomes) {
            let OutboundCommand { kind, message_id, body } = command;
            match outcome {
                PublishOutcome::Confirmed => {
                    self.confirmed += 1;
                    self.ids.insert(message_id.clone());
                    self.orderids.extend(orderid(body));
                }
                PublishOutcome::Unroutable => {
                    self.fail(&format!("{message_id}: no queue takes commands of type {kind:?}"));
                }
                PublishOutcome::Nacked(reason) | PublishOutcome::Rejected(reason) => {
                    self.fail(&format!("{message_id}: the broker refused it: {reason}"));
                }
                PublishOutcome::Unknown(reason) => {
                    self.fail(&format!("{message_id}: not confirmed, so send it again: {reason}"));
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, text: &str) {
        self.failed += 1;
        output::error(text);
    }
}

fn orderid(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OrderIdField {
        orderid: Option<String>,
    }
    serde_json::from_slice::<OrderIdField>(body).ok()?.orderid
}

/// What became of what was sent.
struct FollowReport {
    outcome: SendProgress,
    events: i64,
    unpublished: i64,
    took: Duration,
}

/// Waits until all is handled and published, or until nothing moves any more.
async fn follow(
    views: &Views,
    tally: &SendReport,
    events_before: i64,
    begin: Instant,
) -> anyhow::Result<FollowReport> {
    let ids: Vec<_> = tally.ids.iter().cloned().collect();
    let orderids: Vec<_> = tally.orderids.iter().cloned().collect();
    let (mut last, mut moved) = ((0, 0), Instant::now());
    loop {
        let (outcome, outbox) = (views.send_progress(&ids, &orderids).await?, views.outbox_depth().await?);
        let done = outcome.handled == as_i64(ids.len()) && outbox.pending == 0;
        if last != (outcome.handled, outbox.pending) {
            (last, moved) = ((outcome.handled, outbox.pending), Instant::now());
        }
        if done || moved.elapsed() > GIVE_UP_AFTER {
            let events = views.recorded_totals().await?.events - events_before;
            return Ok(FollowReport { outcome, events, unpublished: outbox.pending, took: begin.elapsed() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn report(tally: &SendReport, followed: Option<&FollowReport>) -> serde_json::Value {
    let mut report = json!({ "confirmed": tally.confirmed, "failed": tally.failed });
    if let Some(FollowReport { outcome, events, unpublished, took }) = followed {
        report["commands"] = json!(tally.ids.len());
        report["handled"] = json!(outcome.handled);
        report["lines"] = json!({ "allocated": outcome.allocated, "backordered": outcome.backordered });
        report["events"] = json!({ "recorded": events, "unpublished": unpublished });
        report["seconds"] = json!(took.as_secs_f64());
    }
    report
}

fn tell(tally: &SendReport, followed: Option<&FollowReport>) {
    output::line(&format!(
        "{} sent and confirmed in {:.1} s",
        count(tally.confirmed, "message"),
        tally.took.as_secs_f64()
    ));
    if tally.failed > 0 {
        output::line(&format!("{} not sent", count(tally.failed, "message")));
    }
    let Some(FollowReport { outcome, events, unpublished, took }) = followed else {
        return;
    };
    let commands = tally.ids.len();
    let repeats = tally.confirmed - commands;
    output::line(&format!(
        "{} of {} handled, each once; {repeats} were repeats",
        outcome.handled,
        count(commands, "command")
    ));
    output::line(&format!(
        "{} lines sit in a batch, {} wait as backorders",
        outcome.allocated, outcome.backordered
    ));
    let published = events - unpublished;
    let per_second = f64::from(u32::try_from(published).unwrap_or(u32::MAX)) / took.as_secs_f64();
    if *events == 0 {
        output::line("no event was due: all of it had been handled before");
    } else {
        output::line(&format!("{published} events published, {per_second:.0} a second"));
    }
    if outcome.handled < as_i64(commands) || *unpublished > 0 {
        output::error(
            "not everything was done; `allocation status` shows what waits, and whether somebody works on it",
        );
    }
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
