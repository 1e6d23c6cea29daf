//! Operators at the command line: calls of `allocation dead-letters`, and what each of them said it did.

use serde_json::Value;

use super::{
    journal,
    plan::{Call, What, Which},
    traffic::Message,
};
use crate::{
    command::{allocate, create_batch},
    program::Answer,
    world::World,
};

/// Messages per second of a retry that is to go slowly.
const RATE: &str = "200";
/// How recent a failure is for a filter by time.
const RECENT: &str = "5s";

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct CallReport {
    /// What the ledger records as the reason: by it the recorded actions are found.
    pub(super) why: String,
    pub(super) what: What,
    pub(super) which: Which,
    /// The group that was chosen, if any.
    pub(super) group: Option<String>,
    /// How many messages it reported to be done.
    pub(super) done: usize,
}

impl CallReport {
    /// What the ledger calls it.
    pub(super) fn action(&self) -> &'static str {
        verb(self.what)
    }
}

fn verb(what: What) -> &'static str {
    match what {
        What::Retry => "retry",
        What::Discard => "discard",
        What::Restore => "restore",
        What::Edit => "edit",
    }
}

/// A failed message that an operator has chosen.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Chosen {
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
    pub(super) fn of(name: &'static str) -> Self {
        Self { name, calls: 0, reports: Vec::new() }
    }

    /// Makes calls, one after the other.
    pub(super) async fn work(&mut self, world: &World<'_>, calls: &[Call]) -> anyhow::Result<()> {
        for call in calls {
            self.make(world, *call).await?;
        }
        Ok(())
    }

    async fn make(&mut self, world: &World<'_>, call: Call) -> anyhow::Result<()> {
        self.calls += 1;
        let why = format!("{} {}", self.name, self.calls);
        let mut group = None;
        let mut arguments: Vec<String> = ["--json", "dead-letters", verb(call.what)].map(Into::into).into();
        match call.which {
            Which::One(number) => {
                let Some(chosen) = choose(world, call.what, number).await? else { return Ok(()) };
                arguments.push(chosen.id.to_string());
                if call.what == What::Edit {
                    arguments.extend(self.replacement(world, &chosen)?);
                }
            }
            Which::Group(number) => {
                group = choose_group(world, call.what, number).await?;
                let Some(group) = &group else { return Ok(()) };
                arguments.extend(["--group".into(), group.clone()]);
            }
            Which::All => arguments.push("--all".into()),
            Which::Reason(reason) => arguments.extend(["--reason".into(), reason.into()]),
            Which::Queue(queue) => arguments.extend(["--queue".into(), queue.into()]),
            Which::Kind(kind) => arguments.extend(["--type".into(), kind.into()]),
            Which::Text(text) => arguments.extend(["--grep".into(), text.into()]),
            Which::Recent => arguments.extend(["--since".into(), RECENT.into()]),
        }
        if call.slowly {
            arguments.extend(["--rate".into(), RATE.into()]);
        }
        arguments.extend(["--why".into(), why.clone()]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let answer = world.cli(&arguments).await?;
        let done = done(world, &arguments, &answer);
        self.reports.push(CallReport { why, what: call.what, which: call.which, group, done });
        Ok(())
    }

    /// A command that works whatever came before, with an id of its own where the message has none that is free.
    fn replacement(&self, world: &World<'_>, chosen: &Chosen) -> anyhow::Result<Vec<String>> {
        let name = format!("edited-{}-{}", self.name, self.calls);
        let command = match chosen.queue.as_str() {
            "orders" => allocate(&name, "DESK", 1),
            _ => create_batch(&name, "DESK", 7),
        };
        let file = world.file(&name, &command.body.to_string())?;
        let mut arguments = vec!["--body".into(), file.display().to_string()];
        arguments.extend(["--type".into(), command.kind.into()]);
        if chosen.message_id.is_none() || chosen.reason.as_deref() == Some("message_id_conflict") {
            arguments.extend(["--message-id".into(), name]);
        }
        Ok(arguments)
    }
}

/// What a call says it did. It may find nothing to do, or not everything; it may not break off.
fn done(world: &World<'_>, arguments: &[&str], answer: &Answer) -> usize {
    let report: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
    let number =
        |field: &str| report[field].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    if !matches!(answer.code, Some(0 | 1)) || number("failed") > 0 {
        let Answer { code, stdout, stderr } = answer;
        let call = arguments.join(" ");
        world.complaints.borrow_mut().push(format!("{call} ended with {code:?}: {stdout}{stderr}"));
    }
    number("done")
}

/// The status that an action is for.
fn status(what: What) -> &'static str {
    if what == What::Restore { "discarded" } else { "dead" }
}

async fn choose(world: &World<'_>, what: What, number: u32) -> anyhow::Result<Option<Chosen>> {
    let mut all: Vec<Chosen> = sqlx::query_as(
        "select id, queue, message_id, reason from failed_messages where status = $1 order by id",
    )
    .bind(status(what))
    .fetch_all(&world.pool)
    .await?;
    let count = all.len().max(1);
    Ok((!all.is_empty()).then(|| all.swap_remove(number as usize % count)))
}

async fn choose_group(world: &World<'_>, what: What, number: u32) -> anyhow::Result<Option<String>> {
    let mut all: Vec<String> = sqlx::query_scalar(
        "select distinct error_group from failed_messages where status = $1 order by error_group",
    )
    .bind(status(what))
    .fetch_all(&world.pool)
    .await?;
    let count = all.len().max(1);
    Ok((!all.is_empty()).then(|| all.swap_remove(number as usize % count)))
}

/// Senders who send discarded messages again: the first and so many behind it.
pub(super) async fn send_discarded(world: &World<'_>, count: u32) -> anyhow::Result<()> {
    let rows: Vec<(String, String, Option<String>, Vec<u8>)> = sqlx::query_as(
        "select queue, type, message_id, body from failed_messages where status = 'discarded' order by id limit $1",
    )
    .bind(i64::from(count))
    .fetch_all(&world.pool)
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
    journal::send(world, &messages).await
}

/// How many calls of each kind there were, and with how many messages they were done.
pub(super) fn summary(reports: &[CallReport]) -> String {
    let of = |what| {
        let calls = reports.iter().filter(|report| report.what == what);
        let (calls, done) = calls.fold((0, 0), |(calls, done), report| (calls + 1, done + report.done));
        format!("{calls} times {} of {done}", verb(what))
    };
    [What::Retry, What::Discard, What::Restore, What::Edit].map(of).join(", ")
}

/// Whether an action may have met a failed message as it was.
pub(super) fn is_meant(call: &CallReport, row: &journal::Row) -> bool {
    let matches = match call.which {
        Which::One(_) | Which::All | Which::Recent => true,
        Which::Reason(reason) => row.reason.as_deref() == Some(reason),
        Which::Queue(queue) => row.queue == queue,
        Which::Kind(kind) => row.kind == kind,
        Which::Text(text) => {
            let searched = format!("{} {}", row.error, row.message_id.as_deref().unwrap_or_default());
            searched.to_lowercase().contains(&text.to_lowercase())
        }
        Which::Group(_) => Some(row.error_group.as_str()) == call.group.as_deref(),
    };
    matches && row.status == status(call.what)
}
