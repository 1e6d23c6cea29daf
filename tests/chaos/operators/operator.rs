//! Operators: calls of `allocation dead-letters`, and what each call reported.

use serde_json::Value;

use super::{
    journal,
    plan::{Call, Subcommand, Target},
    traffic::Message,
};
use crate::{
    command::{allocate, create_batch},
    program::CliOutput,
    test_system::TestSystem,
};

/// Messages per second of a rate-limited retry.
const RATE: &str = "200";
/// The time window of the filter by age.
const RECENT_WINDOW: &str = "5s";

/// A completed call.
#[derive(Clone, Debug)]
pub(super) struct CallReport {
    /// The recorded reason, which identifies the actions of this call.
    pub(super) why: String,
    pub(super) subcommand: Subcommand,
    pub(super) target: Target,
    /// The selected group, if any.
    pub(super) group: Option<String>,
    /// The number of messages that it reported as done.
    pub(super) done: usize,
}

impl CallReport {
    /// The recorded name of the action.
    pub(super) fn action(&self) -> &'static str {
        subcommand_name(self.subcommand)
    }
}

fn subcommand_name(subcommand: Subcommand) -> &'static str {
    match subcommand {
        Subcommand::Retry => "retry",
        Subcommand::Discard => "discard",
        Subcommand::Restore => "restore",
        Subcommand::Edit => "edit",
    }
}

/// A failed message that an operator has selected.
#[derive(Clone, Debug, sqlx::FromRow)]
struct SelectedMessage {
    id: i64,
    queue: String,
    message_id: Option<String>,
    reason: Option<String>,
}

/// One operator.
pub(super) struct Operator {
    name: &'static str,
    calls: u32,
    pub(super) reports: Vec<CallReport>,
}

impl Operator {
    pub(super) fn named(name: &'static str) -> Self {
        Self { name, calls: 0, reports: Vec::new() }
    }

    /// Runs calls, one after the other.
    pub(super) async fn run_calls(&mut self, system: &TestSystem<'_>, calls: &[Call]) -> anyhow::Result<()> {
        for call in calls {
            self.run_call(system, *call).await?;
        }
        Ok(())
    }

    async fn run_call(&mut self, system: &TestSystem<'_>, call: Call) -> anyhow::Result<()> {
        self.calls += 1;
        let why = format!("{} {}", self.name, self.calls);
        let mut group = None;
        let mut arguments: Vec<String> =
            ["--json", "dead-letters", subcommand_name(call.subcommand)].map(Into::into).into();
        match call.target {
            Target::One(number) => {
                let Some(selected) = select_message(system, call.subcommand, number).await? else {
                    return Ok(());
                };
                arguments.push(selected.id.to_string());
                if call.subcommand == Subcommand::Edit {
                    arguments.extend(self.edit_arguments(system, &selected)?);
                }
            }
            Target::Group(number) => {
                group = select_group(system, call.subcommand, number).await?;
                let Some(group) = &group else { return Ok(()) };
                arguments.extend(["--group".into(), group.clone()]);
            }
            Target::All => arguments.push("--all".into()),
            Target::Reason(reason) => arguments.extend(["--reason".into(), reason.into()]),
            Target::Queue(queue) => arguments.extend(["--queue".into(), queue.into()]),
            Target::Kind(kind) => arguments.extend(["--type".into(), kind.into()]),
            Target::Text(text) => arguments.extend(["--grep".into(), text.into()]),
            Target::Recent => arguments.extend(["--since".into(), RECENT_WINDOW.into()]),
        }
        if call.rate_limited {
            arguments.extend(["--rate".into(), RATE.into()]);
        }
        arguments.extend(["--why".into(), why.clone()]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let output = system.cli(&arguments).await?;
        let done = done_count(system, &arguments, &output);
        self.reports.push(CallReport { why, subcommand: call.subcommand, target: call.target, group, done });
        Ok(())
    }

    /// The arguments of an edit whose command can always be handled. A message without a usable id gets a new one.
    fn edit_arguments(
        &self,
        system: &TestSystem<'_>,
        selected: &SelectedMessage,
    ) -> anyhow::Result<Vec<String>> {
        let name = format!("edited-{}-{}", self.name, self.calls);
        let command = match selected.queue.as_str() {
            "orders" => allocate(&name, "DESK", 1),
            _ => create_batch(&name, "DESK", 7),
        };
        let file = system.write_file(&name, &command.body.to_string())?;
        let mut arguments = vec!["--body".into(), file.display().to_string()];
        arguments.extend(["--type".into(), command.kind.into()]);
        if selected.message_id.is_none() || selected.reason.as_deref() == Some("message_id_conflict") {
            arguments.extend(["--message-id".into(), name]);
        }
        Ok(arguments)
    }
}

/// The number of messages that a call reported as done. It may be incomplete, but not fail.
fn done_count(system: &TestSystem<'_>, arguments: &[&str], output: &CliOutput) -> usize {
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let number =
        |field: &str| report[field].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    if !matches!(output.code, Some(0 | 1)) || number("failed") > 0 {
        let CliOutput { code, stdout, stderr } = output;
        let call = arguments.join(" ");
        system.violations.borrow_mut().push(format!("{call} ended with {code:?}: {stdout}{stderr}"));
    }
    number("done")
}

/// The status that a subcommand applies to.
fn status(subcommand: Subcommand) -> &'static str {
    if subcommand == Subcommand::Restore { "discarded" } else { "dead" }
}

async fn select_message(
    system: &TestSystem<'_>,
    subcommand: Subcommand,
    number: u32,
) -> anyhow::Result<Option<SelectedMessage>> {
    let mut all: Vec<SelectedMessage> = sqlx::query_as(
        "select id, queue, message_id, reason from failed_messages where status = $1 order by id",
    )
    .bind(status(subcommand))
    .fetch_all(&system.pool)
    .await?;
    let count = all.len().max(1);
    Ok((!all.is_empty()).then(|| all.swap_remove(number as usize % count)))
}

async fn select_group(
    system: &TestSystem<'_>,
    subcommand: Subcommand,
    number: u32,
) -> anyhow::Result<Option<String>> {
    let mut all: Vec<String> = sqlx::query_scalar(
        "select distinct error_group from failed_messages where status = $1 order by error_group",
    )
    .bind(status(subcommand))
    .fetch_all(&system.pool)
    .await?;
    let count = all.len().max(1);
    Ok((!all.is_empty()).then(|| all.swap_remove(number as usize % count)))
}

/// Sends the oldest discarded messages again, as their senders would.
pub(super) async fn resend_discarded(system: &TestSystem<'_>, count: u32) -> anyhow::Result<()> {
    let rows: Vec<(String, String, Option<String>, Vec<u8>)> = sqlx::query_as(
        "select queue, type, message_id, body from failed_messages where status = 'discarded' order by id limit $1",
    )
    .bind(i64::from(count))
    .fetch_all(&system.pool)
    .await?;
    let messages: Vec<_> = rows
        .into_iter()
        .map(|(queue, kind, id, body)| Message {
            routing_key: if queue == "orders" { "allocate" } else { "create_batch" },
            kind,
            id,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
        .collect();
    journal::send(system, &messages).await
}

/// The number of calls of each kind, and of the messages they changed.
pub(super) fn summary(reports: &[CallReport]) -> String {
    let summarize = |subcommand| {
        let calls = reports.iter().filter(|report| report.subcommand == subcommand);
        let (calls, done) = calls.fold((0, 0), |(calls, done), report| (calls + 1, done + report.done));
        format!("{calls} × {} ({done} messages)", subcommand_name(subcommand))
    };
    [Subcommand::Retry, Subcommand::Discard, Subcommand::Restore, Subcommand::Edit].map(summarize).join(", ")
}

/// Whether a call may have changed a failed message in this state.
pub(super) fn is_targeted(call: &CallReport, row: &journal::FailedMessageRow) -> bool {
    let matches = match call.target {
        Target::One(_) | Target::All | Target::Recent => true,
        Target::Reason(reason) => row.reason.as_deref() == Some(reason),
        Target::Queue(queue) => row.queue == queue,
        Target::Kind(kind) => row.kind == kind,
        Target::Text(text) => {
            let searched = format!("{} {}", row.error, row.message_id.as_deref().unwrap_or_default());
            searched.to_lowercase().contains(&text.to_lowercase())
        }
        Target::Group(_) => Some(row.error_group.as_str()) == call.group.as_deref(),
    };
    // A discard by id also ends a message that is tried again or waits.
    let is_ended_early = matches!(call.subcommand, Subcommand::Discard)
        && matches!(call.target, Target::One(_))
        && matches!(row.status.as_str(), "retrying" | "waiting");
    matches && (row.status == status(call.subcommand) || is_ended_early)
}
