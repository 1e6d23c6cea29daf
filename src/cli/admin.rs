//! `allocation migrate`, `topology` and `config`: before the first command, and when something looks odd.

use serde_json::{Value, json};

use crate::{
    bootstrap::App,
    config::Settings,
    ports::admin::{DeclareResult, Topology as _},
};

use super::{ExitStatus, output};

pub(super) async fn migrate(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let version = app.migrate().await?;
    if json {
        output::json(&json!({ "schema_version": version.found }))?;
    } else {
        output::line(&version.to_string());
    }
    Ok(ExitStatus::Success)
}

/// Exits 1 when something exists with other arguments, so that a deployment notices.
pub(super) async fn topology(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let declared = app.topology().declare().await?;
    let different = declared.iter().any(|declared| matches!(declared, DeclareResult::Mismatch(..)));
    if json {
        let rows = declared.iter().map(|declared| {
            let (name, state, difference) = words(declared);
            json!({ "name": name, "state": state, "difference": difference })
        });
        output::json(&rows.collect::<Vec<_>>())?;
    } else {
        for declared in &declared {
            let (name, state, difference) = words(declared);
            output::line(&format!(
                "{name}: {state}{}",
                difference.map(|how| format!(": {how}")).unwrap_or_default()
            ));
        }
    }
    if different {
        output::error(
            "what exists with other arguments is used as it is; to change it, drain and delete it, or use a policy",
        );
    }
    Ok(if different { ExitStatus::Incomplete } else { ExitStatus::Success })
}

fn words(declared: &DeclareResult) -> (&str, &str, Option<&str>) {
    match declared {
        DeclareResult::Matches(name) => (name, "as it should be", None),
        DeclareResult::Mismatch(name, how) => (name, "different", Some(how)),
        DeclareResult::NotPermitted(name) => (name, "exists; this user may not compare it", None),
    }
}

pub(super) fn config(settings: &Settings, json: bool) -> anyhow::Result<ExitStatus> {
    let settings = serde_json::to_value(settings)?;
    if json {
        output::json(&settings)?;
    } else {
        print_flat("", &settings);
    }
    Ok(ExitStatus::Success)
}

/// `section.key = value`, a line each.
fn print_flat(path: &str, value: &Value) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                print_flat(&path, value);
            }
        }
        leaf => output::line(&format!("{path} = {leaf}")),
    }
}
