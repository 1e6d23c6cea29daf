//! Which messages a subcommand is about.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};

use crate::{bootstrap::App, domain::StatusKind, ports::failed_messages::FailedMessageFilter};

/// The filters; all that are given must match.
#[derive(Debug, Default, Args)]
pub(super) struct FilterArgs {
    /// With this status.
    #[arg(long, value_parser = PossibleValuesParser::new(StatusKind::ALL.iter().map(|kind| kind.as_str())))]
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
    /// With this text in the error or the message id.
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Last failed within this time, e.g. 2h.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Of this group, as listed by `groups`.
    #[arg(long, value_name = "G")]
    group: Option<String>,
}

/// The messages of an action: ids, filters, or explicitly all.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// These messages, whatever their status.
    #[arg(conflicts_with_all = ["all", "status", "queue", "kind", "reason", "grep", "since", "group"])]
    pub(super) ids: Vec<i64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All messages that the action applies to.
    #[arg(long)]
    all: bool,
    /// Print the number of matching messages and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl FilterArgs {
    /// Without `--status`, the filter has the default one.
    pub(super) fn filter(self, app: &App, default_status: StatusKind) -> FailedMessageFilter {
        let status = self.status.as_deref().and_then(StatusKind::from_name);
        let prefix = format!("{}.", app.namespace());
        let short = |queue: String| queue.strip_prefix(&prefix).map_or(queue.clone(), ToOwned::to_owned);
        FailedMessageFilter {
            ids: None,
            status: Some(status.unwrap_or(default_status)),
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
    /// None if there are neither ids nor filters nor `--all`: nothing is applied to all messages by accident.
    pub(super) fn filter(self, app: &App, default_status: StatusKind) -> Option<FailedMessageFilter> {
        if !self.ids.is_empty() {
            return Some(FailedMessageFilter { ids: Some(self.ids), ..FailedMessageFilter::default() });
        }
        let is_given = self.all || !self.filter.is_empty();
        is_given.then(|| self.filter.filter(app, default_status))
    }
}
