//! `allocation migrate`, `topology` and `config`: setup and inspection of an installation.

use serde_json::{Value, json};

use crate::{
    bootstrap::App,
    config::Settings,
    ports::admin::{DeclareResult, Topology as _},
};

use super::{exit::ExitStatus, output};

pub(super) async fn migrate(app: &App, rename_namespace: bool, json: bool) -> anyhow::Result<ExitStatus> {
    let version = app.migrate(rename_namespace, &output::note).await?;
    if json {
        output::json(&json!({ "schema_version": version.found }))?;
    } else {
        output::line(&version.to_string());
    }
    Ok(ExitStatus::Success)
}

/// Exits 1 when an exchange or queue exists with other arguments, so that a deployment script can stop.
pub(super) async fn topology(app: &App, json: bool) -> anyhow::Result<ExitStatus> {
    let declared = app.topology().declare().await?;
    let mismatch = declared.iter().any(|declared| matches!(declared, DeclareResult::Mismatch(..)));
    if json {
        let rows = declared.iter().map(|declared| {
            let (name, state, difference) = columns(declared);
            json!({ "name": name, "state": state, "difference": difference })
        });
        output::json(&rows.collect::<Vec<_>>())?;
    } else {
        for declared in &declared {
            let (name, state, difference) = columns(declared);
            let difference = difference.map(|text| format!(": {text}")).unwrap_or_default();
            output::line(&format!("{name}: {state}{difference}"));
        }
    }
    if mismatch {
        output::error(
            "objects that exist with other arguments are used unchanged; to change them, drain and delete them, or use a policy",
        );
    }
    Ok(if mismatch { ExitStatus::Incomplete } else { ExitStatus::Success })
}

/// Name, state and, if it exists with other arguments, the difference.
fn columns(declared: &DeclareResult) -> (&str, &str, Option<&str>) {
    match declared {
        DeclareResult::Matches(name) => (name, "matches", None),
        DeclareResult::Mismatch(name, difference) => (name, "mismatch", Some(difference)),
        DeclareResult::NotPermitted(name) => {
            (name, "exists; this user is not permitted to compare its arguments", None)
        }
    }
}

pub(super) fn config(settings: &Settings, json: bool) -> anyhow::Result<ExitStatus> {
    settings.warnings().iter().for_each(|warning| output::note(&format!("warning: {warning}")));
    let settings = serde_json::to_value(settings)?;
    if json {
        output::json(&settings)?;
    } else {
        print_flat("", &settings);
    }
    Ok(ExitStatus::Success)
}

/// One line `section.key = value` for each setting.
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
