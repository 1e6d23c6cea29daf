//! Log lines: their fields, and that repetitions are counted instead of written.

use serde_json::Value;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, wait_for};

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";

#[tokio::test(flavor = "multi_thread")]
async fn repeated_failures_are_one_line_and_a_count() {
    let system = TestSystem::new("repeated_failures_are_one_line_and_a_count").await;
    system.expect_dead(200);
    let environment = [
        ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1"),
        ("ALLOCATION__LOG__FORMAT", "json"),
        // Nothing listens there. Failures are traced nevertheless.
        ("ALLOCATION__TRACES__ENDPOINT", "http://127.0.0.1:9"),
    ];
    let worker = system.worker_with(&environment);
    let unknown: Vec<_> = (0..200).map(|n| allocate(&format!("o-{n}"), &format!("LAMP-{n}"), 1)).collect();
    system.sender.send_all(&unknown).await;
    wait_for("they are dead", DRAINS_WITHIN, &200, async || system.count(DEAD).await).await;
    let (ended, log) = worker.stop_with("TERM").await;
    assert!(ended.success(), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about_failures: Vec<_> = lines
        .iter()
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("command dead-lettered")))
        .collect();
    let [first, repeated] = about_failures[..] else { panic!("{log}") };
    assert_eq!(repeated["repeated"], 199, "{log}");
    let groups = system.cli(&["--json", "dead-letters", "groups"]).await.exits(0).json();
    for line in [first, repeated] {
        assert_eq!((&line["level"], &line["queue"]), (&"WARN".into(), &"orders".into()), "{line}");
        assert_eq!((&line["type"], &line["reason"]), (&"allocate".into(), &"rejected".into()), "{line}");
        assert_eq!(line["group"], groups[0]["group"], "{line}");
    }
    let shown = ["--json", "dead-letters", "list", "--grep", first["message_id"].as_str().unwrap()];
    let listed = system.cli(&shown).await.exits(0).json();
    let id = listed[0]["id"].to_string();
    let shown = system.cli(&["--json", "dead-letters", "show", &id]).await.exits(0).json();
    assert_eq!(first["trace_id"], shown["history"][0]["trace_id"], "{first} {shown}");
    assert!(first["trace_id"].is_string(), "{first}");
    system.close().await;
}
