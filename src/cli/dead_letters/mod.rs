//! `allocation dead-letters`: what failed, why, and what to do about it.

mod bulk;
mod edit;
mod read;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    bootstrap::App,
    ports::failed_messages::{FailedMessageFilter, Operator, OperatorAction},
};

use super::ExitStatus;

/// Look at commands that failed, and bring them back.
#[derive(Debug, Args)]
#[command(
    after_help = "At night: `groups` says how many causes there are. `list --group G` and `show ID` say what \
    exactly happened. Mend the cause, then `retry --group G`; what cannot be mended: `edit ID`, or `discard --group G \
    --why …`. Nothing is ever deleted by these commands, and every action is recorded."
)]
pub(super) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One line per message, newest first; the dead ones unless told otherwise.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// Go on after the message with this id, the last of the page before.
        #[arg(long, value_name = "ID")]
        cursor: Option<i64>,
    },
    /// One line per cause. Begin here.
    Groups,
    /// All that is known of one message: body, headers, every attempt, every action.
    Show {
        /// The id in the first column of `list`.
        id: i64,
    },
    /// Try again, as if it had never failed.
    Retry {
        #[command(flatten)]
        which: TargetArgs,
        /// How many a second at most.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// For the record.
        #[arg(long)]
        why: Option<String>,
    },
    /// Replace the body by a valid one, keep the old one, and try again.
    Edit {
        /// The id in the first column of `list`.
        id: i64,
        /// The new body; - is standard input. Without it $EDITOR opens.
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
        /// Another type, for a message that was sent under a wrong one.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Another message id, for a message that has none, or one that belongs to another.
        #[arg(long, value_name = "ID")]
        message_id: Option<String>,
        /// For the record.
        #[arg(long)]
        why: Option<String>,
    },
    /// Put away what will not be tried again.
    Discard {
        #[command(flatten)]
        which: TargetArgs,
        /// For the record.
        #[arg(long)]
        why: String,
    },
    /// Take back a discard.
    Restore {
        #[command(flatten)]
        which: TargetArgs,
        /// For the record.
        #[arg(long)]
        why: Option<String>,
    },
    /// Everything about every message that is meant, as JSON lines.
    Export {
        #[command(flatten)]
        filter: FilterArgs,
    },
}

/// What restricts a list.
#[derive(Debug, Default, Args)]
struct FilterArgs {
    /// retrying, resolved, dead or discarded.
    #[arg(long, value_parser = ["retrying", "resolved", "dead", "discarded"])]
    status: Option<String>,
    /// Of this queue: orders, stock or notifications, with or without the namespace.
    #[arg(long)]
    queue: Option<String>,
    /// Of this command type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Dead for this reason, e.g. rejected.
    #[arg(long)]
    reason: Option<String>,
    /// Whose error or message id contains this text.
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// That failed within this time, e.g. 2h.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Of this group, as `groups` names it.
    #[arg(long, value_name = "G")]
    group: Option<String>,
}

/// What an action is for: ids, filters, or really all.
#[derive(Debug, Args)]
struct TargetArgs {
    /// These messages, whatever their status.
    #[arg(conflicts_with_all = ["all", "status", "queue", "kind", "reason", "grep", "since", "group"])]
    ids: Vec<i64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All that the action can be done with.
    #[arg(long)]
    all: bool,
    /// Only say how many are meant.
    #[arg(long)]
    dry_run: bool,
}

impl FilterArgs {
    fn filter(self, app: &App, default_status: &str) -> FailedMessageFilter {
        let prefix = format!("{}.", app.namespace());
        let short = |queue: String| queue.strip_prefix(&prefix).map_or(queue.clone(), ToOwned::to_owned);
        FailedMessageFilter {
            ids: None,
            status: Some(self.status.unwrap_or_else(|| default_status.to_owned())),
            queue: self.queue.map(short),
            kind: self.kind,
            reason: self.reason,
            grep: self.grep,
            since: self.since,
            group: self.group,
        }
    }

    fn is_empty(&self) -> bool {
        let Self { status, queue, kind, reason, grep, since, group } = self;
        let texts = [status, queue, kind, reason, grep, group];
        since.is_none() && texts.into_iter().all(Option::is_none)
    }
}

impl TargetArgs {
    /// None if nothing says what is meant: an action on everything must be asked for by name.
    fn filter(self, app: &App, default_status: &str) -> Option<FailedMessageFilter> {
        if !self.ids.is_empty() {
            return Some(FailedMessageFilter { ids: Some(self.ids), ..FailedMessageFilter::default() });
        }
        let said = self.all || !self.filter.is_empty();
        said.then(|| self.filter.filter(app, default_status))
    }
}

fn operator(why: Option<String>) -> Operator {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = gethostname::gethostname();
    Operator { who: format!("{}@{}", user.unwrap_or_else(|| "unknown".into()), host.to_string_lossy()), why }
}

impl DeadLetters {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        match self.command {
            Command::List { filter, limit, cursor } => {
                read::list(app, &filter.filter(app, "dead"), limit, cursor, json).await
            }
            Command::Groups => read::groups(app, json).await,
            Command::Show { id } => read::show(app, id, json).await,
            Command::Export { filter } => read::export(app, &filter.filter(app, "dead")).await,
            Command::Retry { which, rate, why } => {
                bulk::apply(app, OperatorAction::Retry, which, operator(why), rate, json).await
            }
            Command::Discard { which, why } => {
                bulk::apply(app, OperatorAction::Discard, which, operator(Some(why)), None, json).await
            }
            Command::Restore { which, why } => {
                bulk::apply(app, OperatorAction::Restore, which, operator(why), None, json).await
            }
            Command::Edit { id, body, kind, message_id, why } => {
                let wanted = edit::EditRequest { id, body, kind, message_id };
                edit::edit(app, wanted, operator(why), json).await
            }
        }
    }
}
