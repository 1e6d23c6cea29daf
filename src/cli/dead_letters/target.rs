//! Which messages a subcommand is about.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::{
    bootstrap::App,
    domain::{Reason, StatusKind},
    ports::failed_messages::{FailedMessageFilter, Since},
};

use super::super::arguments::not_blank;

/// The longest duration of `--since`, in years: the database computes times with it.
const MAX_YEARS: u64 = 100;

/// The filters; all that are given must match.
#[derive(Debug, Default, Args)]
pub(super) struct FilterArgs {
    /// With this status.
    #[arg(long, value_parser = PossibleValuesParser::new(StatusKind::ALL.iter().map(|kind| kind.as_str())))]
    status: Option<String>,
    /// Of this queue: orders, stock or notifications, with or without the namespace.
    #[arg(long, value_parser = not_blank)]
    queue: Option<String>,
    /// Of this command type.
    #[arg(long = "type", value_name = "TYPE", value_parser = not_blank)]
    kind: Option<String>,
    /// Dead for this reason.
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.as_str())))]
    reason: Option<String>,
    /// With this text in the error or the message id.
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    grep: Option<String>,
    /// Last failed within this time, or after this time: 2h, 2026-11-25 (UTC) or 2026-11-25T03:00:00+01:00.
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    since: Option<Since>,
    /// Of this group, as listed by `groups`.
    #[arg(long, value_name = "G", value_parser = not_blank)]
    group: Option<String>,
}

/// The messages of an action: ids, filters, or explicitly all.
#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// These messages, whatever their status.
    #[arg(conflicts_with_all = ["all", "status", "queue", "kind", "reason", "grep", "since", "group"])]
    pub(super) ids: Vec<i64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All messages that the action applies to.
    #[arg(long)]
    all: bool,
}

/// The messages of an action that changes them.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    #[command(flatten)]
    pub(super) selection: SelectionArgs,
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

impl SelectionArgs {
    /// None if there are neither ids nor filters nor `--all`: nothing is applied to all messages by accident.
    pub(super) fn filter(self, app: &App, default_status: StatusKind) -> Option<FailedMessageFilter> {
        if !self.ids.is_empty() {
            return Some(FailedMessageFilter { ids: Some(self.ids), ..FailedMessageFilter::default() });
        }
        let is_given = self.all || !self.filter.is_empty();
        is_given.then(|| self.filter.filter(app, default_status))
    }
}

/// Reads a duration, a date or a time with its zone.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Since::Time(time));
    }
    if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return Ok(Since::Time(date.midnight().assume_utc()));
    }
    let longest = humantime::parse_duration(&format!("{MAX_YEARS}y")).unwrap_or(Duration::MAX);
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= longest => Ok(Since::Within(duration)),
        Ok(_) => Err(format!("must be at most {MAX_YEARS}y")),
        Err(_) => Err("must be a duration (2h), a date (2026-11-25) or a time with its zone \
                       (2026-11-25T03:00:00+01:00 or …Z)"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn since_is_a_duration_a_date_or_a_time_with_its_zone() {
        let cases = [
            ("2h", Since::Within(Duration::from_hours(2))),
            ("1h 30m", Since::Within(Duration::from_mins(90))),
            ("2026-11-25", Since::Time(datetime!(2026-11-25 0:00 UTC))),
            ("2026-11-25T03:00:00+01:00", Since::Time(datetime!(2026-11-25 2:00 UTC))),
            ("2026-11-25T03:00:00.5Z", Since::Time(datetime!(2026-11-25 3:00:00.5 UTC))),
        ];
        for (text, expected) in cases {
            assert_eq!(since(text), Ok(expected), "{text}");
        }
        for invalid in ["", " ", "yesterday", "2026-11-25T03:00:00", "2026-02-30", "25.11.2026", "2000y", "2"]
        {
            assert!(since(invalid).is_err(), "{invalid}");
        }
    }
}
