//! Dead letters that later commands have overtaken.

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, create_batch, deallocate, wait_for};

const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const LINES: u32 = 2_000;
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_an_overtaken_dead_letter_must_be_requested() {
    let system = TestSystem::new("a_retry_of_an_overtaken_dead_letter_must_be_requested").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    wait_for("the line is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    let first = deallocate("o-1", "LAMP");
    let last = deallocate("o-1", "LAMP").with_id("the last cancellation");
    system.sender.send_all(&[first, last]).await;
    system.wait_handled(3).await;
    let listed = system.cli(&["--json", "dead-letters", "list"]).await.exits(0).json();
    assert_eq!(listed[0]["overtaken_by"], json!("the last cancellation"));
    let id = listed[0]["id"].to_string();
    let shown = system.cli(&["dead-letters", "show", &id]).await.exits(0).text();
    assert!(shown.contains("overtaken  by the last cancellation"), "{shown}");
    for retry in [&["dead-letters", "retry", &id][..], &["dead-letters", "retry", "--all"]] {
        let skipped = system.cli(retry).await.exits(1).text();
        assert!(skipped.contains("overtaken: a later command"), "{skipped}");
    }
    let body = system.file("body.json", br#"{"orderid": "o-1", "sku": "LAMP", "qty": 7}"#);
    let edit = ["dead-letters", "edit", &id, "--body", body.to_str().unwrap()];
    assert!(system.cli(&edit).await.exits(1).text().contains("overtaken"));
    assert_eq!(system.count("select count(*) from order_lines").await, 0);
    system.cli(&["dead-letters", "retry", "--all", "--overtaken"]).await.exits(0);
    system.settled(4).await;
    assert_eq!(system.count("select count(*) from order_lines").await, 1);
    system.close_after([worker]).await;
}

/// Of 2,000 lines, 20 were cancelled meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_retry_skips_the_overtaken_dead_letters_only() {
    let system = TestSystem::new("a_bulk_retry_skips_the_overtaken_dead_letters_only").await;
    let worker = system.worker_with(ONE_ATTEMPT);
    let lines: Vec<_> = (0..LINES).map(|n| allocate(&format!("o-{n}"), "LAMP", 1)).collect();
    system.sender.send_all(&lines).await;
    wait_for("the lines are dead", DRAINS_WITHIN, &i64::from(LINES), async || system.count(DEAD).await).await;
    system.sender.send(&create_batch("b-1", "LAMP", LINES)).await;
    system.wait_handled(1).await;
    let cancelled: Vec<_> = (0..LINES / 100).map(|n| deallocate(&format!("o-{}", n * 100), "LAMP")).collect();
    system.sender.send_all(&cancelled).await;
    system.wait_handled(1 + cancelled.len()).await;
    let retried = system.cli(&["--json", "dead-letters", "retry", "--all"]).await.exits(1).json();
    let (matched, skipped) = (lines.len(), cancelled.len());
    let done = matched - skipped;
    assert_eq!(retried, json!({ "matched": matched, "done": done, "skipped": skipped, "failed": 0 }));
    system.expect_dead(i64::from(LINES / 100));
    system.settled(1 + skipped + done).await;
    let allocated = "select count(*) from order_lines where substr(orderid, 3)::int % 100 = 0";
    assert_eq!(system.count(allocated).await, 0, "a cancelled line was allocated");
    system.close_after([worker]).await;
}
