//! The dashboard in `ops/grafana.json`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::read;

const ROWS: [&str; 6] =
    ["Does it work", "Commands", "Failures", "Outbox and relay", "Broker and database", "Processes"];

/// The dashboard.
fn dashboard() -> Value {
    serde_json::from_str(&read("ops/grafana.json")).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().expect("a dashboard has panels").iter().collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The expressions with the title of their panel, and this interval in place of Grafana's variable.
pub(super) fn expressions(rate_interval: &str) -> Vec<(String, String)> {
    let dashboard = dashboard();
    let targets = |panel: &Value| panel["targets"].as_array().cloned().unwrap_or_default();
    let expression = |target: &Value| text(target, "expr").replace("$__rate_interval", rate_interval);
    let of_panel = |panel: &&Value| {
        let title = text(panel, "title").to_owned();
        let expressions: Vec<_> = targets(panel).iter().map(expression).collect();
        expressions.into_iter().map(move |expression| (title.clone(), expression)).collect::<Vec<_>>()
    };
    panels(&dashboard).iter().flat_map(of_panel).collect()
}

#[test]
fn the_rows_have_their_titles() {
    let dashboard = dashboard();
    let rows: Vec<_> = panels(&dashboard)
        .into_iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| text(row, "title"))
        .collect();
    assert_eq!(rows, ROWS);
}

#[test]
fn every_panel_has_title_description_unit_and_the_data_source_of_the_variable() {
    let dashboard = dashboard();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!((text(variable, "name"), text(variable, "type")), ("datasource", "datasource"));
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(titles.insert(title), "two panels have the title {title:?}");
        assert!(
            ids.insert(panel["id"].as_u64().expect("a panel has an id")),
            "{title}: its id is not unique"
        );
        if panel["type"] == "row" {
            continue;
        }
        assert!(text(panel, "description").ends_with('.'), "{title} has no description");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{title} has no unit");
        let targets = panel["targets"].as_array().expect("a panel has expressions");
        assert!(!targets.is_empty(), "{title} has no expression");
        for part in targets.iter().chain([panel]) {
            assert_eq!(text(&part["datasource"], "uid"), "${datasource}", "{title}");
        }
    }
    assert!(ids.len() > 30, "only {} panels were found", ids.len());
}

/// No two panels overlap.
#[test]
fn panels_have_their_own_places() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in panels(&dashboard) {
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a panel has a place");
        let (x, y) = (place("x"), place("y"));
        assert!(x + place("w") <= 24, "{} is too wide", panel["title"]);
        for column in x..x + place("w") {
            for line in y..y + place("h") {
                assert!(taken.insert((column, line)), "{} overlaps another panel", panel["title"]);
            }
        }
    }
}
