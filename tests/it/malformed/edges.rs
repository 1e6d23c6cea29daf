//! Valid messages that are unusual, and messages at a limit.

use lapin::BasicProperties;

use crate::harness::properties;

use super::message::{BODY_LIMIT, headers, line, line_with, nested_json, padded, text};

/// Unusual messages that are valid.
pub(super) fn unusual() -> Vec<(BasicProperties, String)> {
    let at_the_limit = line(r#""at-the-limit""#, r#""LAMP""#, "1");
    let (longest_id, foreign_id) = ("i".repeat(200), "é".repeat(120));
    let longest_order = format!(r#""{}""#, "ö".repeat(255));
    let sent = |id: &str| properties("allocate", id);
    vec![
        (sent("the limit"), padded(at_the_limit, BODY_LIMIT)),
        (sent(&longest_id), line_with("longest-id", "0")),
        (sent(&foreign_id), line_with("foreign-id", "0")),
        (sent("longest order"), line(&longest_order, r#""LAMP""#, "1")),
        (sent("digits"), line(r#""digits""#, r#""LAMP""#, r#""0001""#)),
        (sent("unknown field"), line_with("unknown-field", r#"{"a": [1, {"b": null}]}"#)),
        (
            sent("charset").with_content_type("application/json; charset=utf-8".into()),
            line_with("charset", "0"),
        ),
        (sent("encoding").with_content_encoding("utf-8".into()), line_with("encoding", "0")),
        (BasicProperties::default().with_message_id("bare".into()), line_with("bare", "0")),
    ]
}

/// Messages at a limit: either handled or dead as invalid.
pub(super) fn at_the_limits() -> Vec<(BasicProperties, String)> {
    let mut all = Vec::new();
    for depth in [127, 128, 129, 50_000] {
        all.push(line_with(&format!("depth-{depth}"), &nested_json(depth)));
    }
    all.push(line_with("huge", "1e999999"));
    all.push(line_with("nul", r#""\u0000""#));
    all.push(line_with("half", r#""\ud800""#));
    all.push(line_with("twice", r#"1, "more": 2"#));
    let mut all: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(number, body)| (properties("allocate", &format!("limit-{number}")), body))
        .collect();
    let correlated = properties("allocate", "limit-correlation").with_correlation_id("a nul \0".into());
    all.push((correlated, line_with("correlation", "0")));
    let trace = headers([("traceparent", text("a nul \0"))]);
    all.push((properties("allocate", "limit-trace").with_headers(trace), line_with("trace", "0")));
    all
}
