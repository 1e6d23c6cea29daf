//! The subcommands and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    bootstrap::App,
    domain::{OperatorAction, StatusKind},
    ports::{failed_messages::Operator, text::sanitize},
    service::trial::TrialOptions,
    views::ListPosition,
};

use super::{
    super::{arguments::not_blank, exit::ExitStatus},
    bulk, edit, read,
    target::{FilterArgs, SelectionArgs, TargetArgs},
    trial,
};

/// List commands that failed, and retry, edit or discard them.
#[derive(Debug, Args)]
#[command(
    after_help = "Typical use: `groups` lists the distinct errors, `show ID` one message. Fix the cause; \
    `try --group G` shows what a retry would do; then `retry --group G`. If the message itself is wrong, use `edit ID` or `discard --group G --why …`. These commands \
    delete nothing, and every action is recorded."
)]
pub(in crate::cli) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List failed messages, newest first; without --status those with status dead.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// The maximum number of messages.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        /// Continue after this place in the list: the time of the last failure and the id of the last message of the
        /// previous page. `list` prints it.
        #[arg(long, value_name = "TIME,ID")]
        cursor: Option<ListPosition>,
    },
    /// List the distinct errors of dead letters, with the number of messages. Start here.
    Groups {
        /// The number of groups, the largest first.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Show a message with body, headers, attempts and actions.
    Show {
        /// The id in the first column of `list`.
        id: i64,
    },
    /// Handle messages in a transaction that is rolled back, and show what a retry would do. Nothing is changed.
    #[command(after_help = trial::HELP)]
    Try {
        #[command(flatten)]
        selection: SelectionArgs,
        /// The maximum number of messages, those that failed first; they are handled together, in the order of a retry.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=trial::MAX_MESSAGES))]
        limit: u8,
        /// Also try messages that were overtaken, as `retry --overtaken` does.
        #[arg(long)]
        overtaken: bool,
        /// Also try messages whose worker crashed repeatedly. They may crash this command; nothing is changed even then.
        #[arg(long)]
        even_if_it_crashes: bool,
    },
    /// Retry messages from attempt 1.
    Retry {
        #[command(flatten)]
        target: TargetArgs,
        /// The maximum number of messages per second.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// Also retry messages that were overtaken: a later command for the same line or batch was handled, and the retry
        /// may undo what it did. Without this they are skipped.
        #[arg(long)]
        overtaken: bool,
        /// The reason, for the record.
        #[arg(long, value_parser = not_blank)]
        why: Option<String>,
    },
    /// Replace the content of a dead letter by a valid one and retry it. The original body is kept.
    Edit {
        /// The id in the first column of `list`.
        id: i64,
        /// The new body; - is standard input. Without --body, --type and --message-id, $EDITOR opens.
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
        /// The new type, if the message has a wrong one.
        #[arg(long = "type", value_name = "TYPE", value_parser = not_blank)]
        kind: Option<String>,
        /// The new message id, if the message has none or that of another message.
        #[arg(long, value_name = "ID", value_parser = not_blank)]
        message_id: Option<String>,
        /// Edit and retry the message even if it was overtaken by a later command for the same line or batch.
        #[arg(long)]
        overtaken: bool,
        /// The reason, for the record.
        #[arg(long, value_parser = not_blank)]
        why: Option<String>,
    },
    /// Discard dead letters that are not to be retried.
    Discard {
        #[command(flatten)]
        target: TargetArgs,
        /// The reason, for the record.
        #[arg(long, value_parser = not_blank)]
        why: String,
    },
    /// Undo a discard.
    Restore {
        #[command(flatten)]
        target: TargetArgs,
        /// The reason, for the record.
        #[arg(long, value_parser = not_blank)]
        why: Option<String>,
    },
    /// Print messages in full, as JSON lines; without --status those with status dead.
    Export {
        #[command(flatten)]
        filter: FilterArgs,
    },
}

impl DeadLetters {
    pub(in crate::cli) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        match self.command {
            Command::List { filter, limit, cursor } => {
                read::list(app, &filter.filter(app, StatusKind::Dead), limit, cursor, json).await
            }
            Command::Groups { limit } => read::groups(app, limit, json).await,
            Command::Show { id } => read::show(app, id, json).await,
            Command::Export { filter } => read::export(app, &filter.filter(app, StatusKind::Dead)).await,
            Command::Try { selection, limit, overtaken, even_if_it_crashes } => {
                let options = TrialOptions { even_overtaken: overtaken, even_if_it_crashes };
                trial::try_messages(app, selection, limit.into(), options, json).await
            }
            Command::Retry { target, rate, overtaken, why } => {
                let action = if overtaken { OperatorAction::RetryOvertaken } else { OperatorAction::Retry };
                bulk::apply(app, &action, target, operator(why), rate, json).await
            }
            Command::Discard { target, why } => {
                bulk::apply(app, &OperatorAction::Discard, target, operator(Some(why)), None, json).await
            }
            Command::Restore { target, why } => {
                bulk::apply(app, &OperatorAction::Restore, target, operator(why), None, json).await
            }
            Command::Edit { id, body, kind, message_id, overtaken, why } => {
                let args = edit::EditArgs { id, body, kind, message_id, overtaken };
                edit::edit(app, args, &operator(why), json).await
            }
        }
    }
}

fn operator(why: Option<String>) -> Operator {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = gethostname::gethostname();
    let who = format!("{}@{}", user.unwrap_or_else(|| "unknown".into()), host.to_string_lossy());
    Operator { who: sanitize(&who), why }
}
