//! Selectors in `PromQL` expressions.

/// Prefixes of the metrics that the expressions use. All other words are functions, keywords and labels.
const PREFIXES: [&str; 4] = ["allocation_", "process_", "ALERTS", "up"];

/// The selectors of an expression, such as `allocation_queue_ready{queue_kind="main"}`, without ranges.
pub(super) fn selectors(expression: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(length) = expression[at..].find(|c: char| !is_word(c)).or(Some(expression.len() - at)) {
        let word = &expression[at..at + length];
        let rest = &expression[at + length..];
        if is_metric(word) {
            let labels = rest.strip_prefix('{').and_then(|labels| labels.find('}')).map_or(0, |end| end + 2);
            found.push(&expression[at..at + length + labels]);
        }
        // Labels and texts are skipped.
        let skipped = match rest.chars().next() {
            None => break,
            Some('{') => rest.find('}').expect("a brace is closed") + 1,
            Some(other) => other.len_utf8(),
        };
        at += length + skipped;
    }
    found
}

/// The names of the metrics of an expression.
pub(super) fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    selectors(expression).into_iter().filter_map(|selector| selector.split('{').next())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn is_metric(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| word == *prefix || prefix.ends_with('_') && word.starts_with(prefix))
}

#[test]
fn selectors_are_found() {
    let expression =
        r#"sum by (queue) (rate(allocation_a_total{queue="b"}[5m])) > 0.05 * max(allocation_c) unless up"#;
    assert_eq!(selectors(expression), [r#"allocation_a_total{queue="b"}"#, "allocation_c", "up"]);
    assert_eq!(selectors(r#"ALERTS{alertstate="firing"}"#), [r#"ALERTS{alertstate="firing"}"#]);
    assert_eq!(selectors("vector(0)"), Vec::<&str>::new());
}
