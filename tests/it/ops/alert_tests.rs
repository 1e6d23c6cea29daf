//! `ops/alerts_test.yaml` has a test of each alert in which it is silent, fires and is silent again, and one healthy system.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::{alerts, yaml};

/// What the tests of a group expect of each alert, in the order of the times: whether it fires.
fn expectations(group: &Value) -> BTreeMap<String, Vec<bool>> {
    let mut expected: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for test in group["alert_rule_test"].as_array().expect("a group has tests of alerts") {
        let alert = test["alertname"].as_str().expect("a test names its alert").to_owned();
        let alerts = test["exp_alerts"].as_array().expect("a test expects a list");
        expected.entry(alert).or_default().push(!alerts.is_empty());
    }
    expected
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_clears() {
    let file = yaml("ops/alerts_test.yaml");
    let groups: Vec<_> =
        file["tests"].as_array().expect("the file has tests").iter().map(expectations).collect();
    let (healthy, faults) = groups.split_first().expect("there is a healthy system");
    for alert in alerts() {
        assert_eq!(healthy.get(&alert.name), Some(&vec![false]), "{} in the healthy system", alert.name);
        let fires = faults.iter().find_map(|group| group.get(&alert.name));
        let fires = fires.unwrap_or_else(|| panic!("{} has no test", alert.name));
        let changes: Vec<_> = fires.iter().copied().filter(|fires| *fires).collect();
        assert!(!changes.is_empty(), "{} has no test in which it fires", alert.name);
        assert_eq!(fires.first(), Some(&false), "{} is not silent before the fault", alert.name);
        assert_eq!(fires.last(), Some(&false), "{} is not silent after the fault", alert.name);
    }
}

/// The series of the healthy system are those of the rules: an alert is not silent for lack of series.
#[test]
fn the_healthy_system_has_a_series_for_every_metric_of_a_rule() {
    let file = yaml("ops/alerts_test.yaml");
    let series = file["tests"][0]["input_series"].as_array().expect("it has series");
    let series: Vec<_> = series.iter().filter_map(|series| series["series"].as_str()).collect();
    for alert in alerts() {
        for metric in super::expressions::metrics(&alert.expression) {
            let has = series.iter().any(|series| series.split('{').next() == Some(metric));
            assert!(has, "the healthy system has no series of {metric}, which {} uses", alert.name);
        }
    }
}
