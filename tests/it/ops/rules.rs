//! The rules of `ops/alerts.yaml`.

use std::{fs, process::Command};

use serde_json::Value;

use crate::harness::has_prometheus;

const SEVERITIES: [&str; 2] = ["page", "ticket"];

/// An alerting rule.
#[derive(Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) severity: String,
    annotations: Value,
}

impl Alert {
    #[track_caller]
    pub(crate) fn annotation(&self, name: &str) -> &str {
        self.annotations[name].as_str().unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }
}

/// A file of the project.
pub(super) fn read(path: &str) -> String {
    let text = fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file of the project.
pub(super) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All rules, in the order of the file.
pub(crate) fn alerts() -> Vec<Alert> {
    let file = yaml("ops/alerts.yaml");
    let groups = file["groups"].as_array().expect("the file has groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("a group has rules"));
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    let alert = |rule: &Value| Alert {
        name: text(&rule["alert"]),
        expression: text(&rule["expr"]),
        severity: text(&rule["labels"]["severity"]),
        annotations: rule["annotations"].clone(),
    };
    rules.map(alert).collect()
}

/// Runs `promtool` in the folder `ops`.
#[track_caller]
fn promtool(arguments: &[&str]) {
    let folder = format!("{}/ops", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("promtool").args(arguments).current_dir(folder).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "promtool {arguments:?}\n{}", text.concat());
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    if has_prometheus() {
        promtool(&["check", "rules", "alerts.yaml"]);
        promtool(&["test", "rules", "alerts_test.yaml"]);
        promtool(&["check", "config", "--syntax-only", "prometheus.yml"]);
    }
}

#[test]
fn every_alert_has_severity_and_annotations() {
    let alerts = alerts();
    assert!(alerts.len() > 15, "only {} alerts were found", alerts.len());
    for alert in &alerts {
        assert!(SEVERITIES.contains(&alert.severity.as_str()), "{}: {}", alert.name, alert.severity);
        for name in ["summary", "description", "command", "runbook_url"] {
            assert!(!alert.annotation(name).is_empty(), "{}: {name}", alert.name);
        }
    }
}
