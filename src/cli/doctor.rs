//! `allocation doctor`: checks an installation, and prints what repairs it.

use clap::Args;

use crate::{
    bootstrap::App,
    service::checks::{Check, CheckStatus},
};

use super::{arguments::not_blank, exit::ExitStatus, output};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  allocation doctor\n  allocation doctor --only database\n  allocation doctor --fix > repair.sh\n\n\
    It changes nothing. The script runs statements as the owner of the tables, with the URL in OWNER_URL. Exit status 1: a \
    check failed."
)]
pub(super) struct Doctor {
    /// Only the checks whose names begin with this, for example database or broker.topology.
    #[arg(long, value_name = "CHECK", value_parser = not_blank)]
    only: Option<String>,
    /// Print a script of the commands that repair what was found. It is not run.
    #[arg(long, conflicts_with = "json")]
    fix: bool,
}

impl Doctor {
    pub(super) async fn execute(self, app: &App, json: bool) -> anyhow::Result<ExitStatus> {
        let mut checks = Box::pin(app.check()).await;
        if let Some(only) = &self.only {
            checks.retain(|check| check.check.starts_with(only.as_str()));
            if checks.is_empty() {
                output::error(&format!("no check is named {only}: allocation doctor lists them"));
                return Ok(ExitStatus::UsageError);
            }
        }
        if json {
            output::json(&checks)?;
        } else if self.fix {
            print_script(&checks);
        } else {
            checks.iter().for_each(print);
        }
        let has_failed = checks.iter().any(|check| check.status == CheckStatus::Failed);
        Ok(if has_failed { ExitStatus::Incomplete } else { ExitStatus::Success })
    }
}

fn print(check: &Check) {
    let Check { check, status, found, wanted, fix } = check;
    let wanted = match status {
        CheckStatus::Warning | CheckStatus::Failed => format!("; wanted: {wanted}"),
        CheckStatus::Ok | CheckStatus::NotKnown => String::new(),
    };
    output::line(&format!("{:<9}  {check:<24}  {found}{wanted}", status.as_str()));
    for command in fix {
        output::line(&format!("           fix: {command}"));
    }
}

fn print_script(checks: &[Check]) {
    output::line("#!/usr/bin/env bash");
    output::line("# Repairs what `allocation doctor` found. Read it before you run it.");
    output::line("set -euo pipefail");
    for check in checks.iter().filter(|check| !check.fix.is_empty()) {
        output::line(&format!("# {}: {}", check.check, check.found));
        check.fix.iter().for_each(|command| output::line(command));
    }
}
