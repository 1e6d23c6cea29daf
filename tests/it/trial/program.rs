//! The subcommand.

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, create_batch, wait_for};

const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";

/// The output without the time of day.
fn without_time(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("handled now, as of ") {
        Some(rest) => format!("handled now, as of hh:mm:ss{}", &rest["hh:mm:ss".len()..]),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_shows_what_a_retry_does_beside_running_processes() {
    let system = TestSystem::new("a_trial_shows_what_a_retry_does_beside_running_processes").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&allocate("WEB-9002", "MOON-LAMP", 2)).await;
    wait_for("the line is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    let before = system.cli(&["dead-letters", "try", "1"]).await.exits(1);
    let expected = "message 1: allocate WEB-9002, dead (rejected): Invalid sku MOON-LAMP\n\
                    handled now, as of hh:mm:ss, it would fail: Invalid sku MOON-LAMP\n  \
                      then    rejected\n\
                    nothing was changed";
    assert_eq!(without_time(before.stdout()), expected.replace("rejected\nnothing", "retrying\nnothing"));
    system.sender.send(&create_batch("moon-1", "MOON-LAMP", 20)).await;
    system.wait_handled(1).await;
    let tried = system.cli(&["dead-letters", "try", "1"]).await.exits(0);
    let expected = "message 1: allocate WEB-9002, dead (rejected): Invalid sku MOON-LAMP\n\
                    handled now, as of hh:mm:ss, it would succeed\n  \
                      line    WEB-9002 / MOON-LAMP ×2: none → batch moon-1\n  \
                      batch   moon-1: 20 purchased, 0 → 2 allocated\n  \
                      event   allocated, number 1 of MOON-LAMP\n\
                    nothing was changed; to do it: allocation dead-letters retry 1";
    assert_eq!(without_time(tried.stdout()), expected);
    let json = system.cli(&["--json", "dead-letters", "try", "1"]).await.exits(0).json();
    let [report] = &json.as_array().unwrap()[..] else { panic!("{json}") };
    assert!(report["as_of"].as_str().unwrap().ends_with('Z'), "{report}");
    assert!(report["took_ms"].is_u64(), "{report}");
    let place = json!({ "status": "allocated", "batchref": "moon-1" });
    let body = json!({ "orderid": "WEB-9002", "sku": "MOON-LAMP", "qty": 2, "batchref": "moon-1" });
    let expected = json!({
        "id": 1, "as_of": report["as_of"], "would": "succeed", "next": null, "error": null,
        "took_ms": report["took_ms"],
        "lines": [{ "orderid": "WEB-9002", "sku": "MOON-LAMP", "qty": 2, "from": null, "to": place }],
        "batches": [{ "batchref": "moon-1", "allocated": [0, 2], "purchased": [20, 20] }],
        "events": [{ "type": "allocated", "sku": "MOON-LAMP", "sequence": 1, "body": body }],
        "mail": null, "caveats": [],
    });
    assert_eq!(*report, expected);
    assert_eq!(system.count(DEAD).await, 1);
    assert_eq!(system.count("select count(*) from failed_actions").await, 0);
    system.cli(&["dead-letters", "retry", "1"]).await.exits(0);
    system.settled(2).await;
    let handled = system.cli(&["dead-letters", "try", "1"]).await.exits(1);
    assert!(handled.stdout().contains("it would change nothing: already handled"), "{}", handled.stdout());
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_selects_messages_like_a_retry() {
    let system = TestSystem::new("a_trial_selects_messages_like_a_retry").await;
    system.insert_dead_letters(30).await;
    let cli = async |arguments: &[&str]| system.cli(&[&["dead-letters", "try"], arguments].concat()).await;
    cli(&[]).await.exits(2).assert_error("no messages selected");
    cli(&["--all", "--limit", "101"]).await.exits(2);
    let first = cli(&["--group", "group-1"]).await.exits(1);
    assert!(first.stdout().contains("0 of 20 would succeed"), "{}", first.stdout());
    first.assert_error("20 of 30 messages were tried; see --limit");
    cli(&["1", "1000"]).await.exits(1).assert_error("1 of the ids do not exist");
    cli(&["--queue", "stock"]).await.exits(0);
    system.cli(&["send", "create_batch", "--ref", "b", "--sku", "LAMP", "--qty", "25"]).await.exits(0);
    let worker = system.worker();
    system.wait_handled(1).await;
    let all = cli(&["--all", "--limit", "100"]).await.exits(0);
    assert!(all.stdout().contains("30 of 30 would succeed"), "{}", all.stdout());
    assert_eq!(all.stdout().matches("event   out_of_stock").count(), 5);
    assert_eq!(system.count("select count(*) from order_lines").await, 0);
    system.close_after([worker]).await;
}
