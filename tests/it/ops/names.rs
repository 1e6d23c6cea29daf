//! Rules and dashboard use metrics that exist, with labels that they have.

use std::collections::BTreeSet;

use allocation::adapters::prometheus::{Description, PrometheusObserver};

use super::{dashboard, expressions::selectors, rules::alerts};

/// What belongs to a histogram.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The description of a metric of this program.
fn described<'a>(metrics: &'a [Description], name: &str) -> Option<&'a Description> {
    let histogram = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
    metrics.iter().find(|metric| match histogram {
        Some(histogram) if metric.kind == "histogram" => metric.name == histogram,
        _ => metric.name == name,
    })
}

#[test]
fn every_selector_names_a_metric_and_its_labels() {
    let observer = PrometheusObserver::default();
    let rules = alerts().into_iter().map(|alert| (alert.name, alert.expression));
    let mut found = 0;
    for (place, expression) in rules.chain(dashboard::expressions("1m")) {
        for selector in selectors(&expression).into_iter().filter(|name| name.starts_with("allocation_")) {
            let (name, labels) = selector.split_once('{').unwrap_or((selector, ""));
            let metric = described(observer.descriptions(), name);
            let metric = metric.unwrap_or_else(|| panic!("{place}: there is no metric {name}"));
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let label = label.trim().split(['=', '!']).next().unwrap_or_default();
                assert!(metric.labels.contains(&label), "{place}: {name} has no label {label}");
            }
            found += 1;
        }
    }
    assert!(found > 60, "only {found} selectors were found");
}

/// What is measured is shown.
#[test]
fn every_metric_is_on_the_dashboard() {
    let observer = PrometheusObserver::default();
    let metrics = observer.descriptions();
    let expressions = dashboard::expressions("1m");
    let names = expressions.iter().flat_map(|(_, expression)| super::expressions::metrics(expression));
    let shown: BTreeSet<_> = names.filter_map(|name| Some(described(metrics, name)?.name.as_str())).collect();
    for Description { name, .. } in metrics {
        assert!(shown.contains(name.as_str()), "{name} is in no panel");
    }
}
