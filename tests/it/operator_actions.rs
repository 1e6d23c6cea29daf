//! Concurrent operator actions, and actions on messages that change meanwhile.

use serde_json::json;
use tokio::time::timeout;

use crate::harness::{Command, DRAINS_WITHIN, TestSystem, allocate, create_batch, wait_for, wait_until};

const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";

async fn wait_dead(system: &TestSystem, count: i64) {
    wait_for("messages are dead", DRAINS_WITHIN, &count, async || system.count(DEAD).await).await;
}

/// Two operators edit one message; the second saves after the first.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_a_message_that_changed_since_it_was_shown_is_skipped() {
    let system = TestSystem::new("an_edit_of_a_message_that_changed_since_it_was_shown_is_skipped").await;
    system.expect_dead(1);
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&allocate("o-1", "NO-SUCH-SKU", 1)).await;
    wait_dead(&system, 1).await;
    let id: i64 = system.count("select id from failed_messages").await;
    let id = id.to_string();

    // An editor that stays open until the file `saved` exists, and then changes the quantity.
    let saved = system.file("not-yet", b"").with_file_name("saved");
    let opened = saved.with_file_name("opened");
    let script = format!(
        "#!/bin/sh\ntouch {}\nwhile [ ! -e {} ]; do sleep 0.05; done\nsed -i 's/1/9/' \"$1\"\n",
        opened.display(),
        saved.display()
    );
    let editor = system.file("editor.sh", script.as_bytes());
    let editor = format!("sh {}", editor.display());
    let first = async {
        let edit = ["dead-letters", "edit", id.as_str(), "--why", "opened first"];
        system.cli_with(&edit, &[("EDITOR", editor.as_str())]).await
    };
    let second = async {
        wait_until("the editor is open", DRAINS_WITHIN, async || opened.exists()).await;
        let body = system.file("five.json", br#"{"orderid": "o-1", "sku": "NO-SUCH-SKU", "qty": 5}"#);
        let edit = ["dead-letters", "edit", id.as_str(), "--body", body.to_str().unwrap()];
        system.cli(&edit).await.exits(0);
        let failed_again = "select count(*) from failed_attempts";
        wait_for("the edited message has failed", DRAINS_WITHIN, &2, async || {
            system.count(failed_again).await
        })
        .await;
        wait_dead(&system, 1).await;
        std::fs::write(&saved, b"").unwrap();
    };
    let (first, ()) = timeout(DRAINS_WITHIN, async { tokio::join!(first, second) }).await.unwrap();
    let output = first.exits(1).text();
    assert!(output.contains("changed meanwhile"), "{output}");
    let body: Vec<u8> =
        sqlx::query_scalar("select body from failed_messages").fetch_one(&system.pool).await.unwrap();
    assert!(String::from_utf8(body).unwrap().contains("\"qty\": 5"), "the other edit is kept");
    assert_eq!(system.count("select count(*) from failed_actions where what = 'edit'").await, 1);
    system.close_after([worker]).await;
}

/// A message changes while a slow bulk action is running.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_action_skips_messages_that_no_longer_match_its_filter() {
    let system = TestSystem::new("a_bulk_action_skips_messages_that_no_longer_match_its_filter").await;
    system.expect_dead(1);
    let worker = system.worker_with(ONE_ATTEMPT);
    let lines: Vec<Command> = (0..10).map(|n| allocate(&format!("o-{n}"), "LAMP", 1)).collect();
    system.sender.send_all(&lines).await;
    wait_dead(&system, 10).await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;

    let retry =
        ["--json", "dead-letters", "retry", "--reason", "rejected", "--rate", "5", "--why", "stock is there"];
    let change = async {
        wait_until("the first are retried", DRAINS_WITHIN, async || system.count(DEAD).await < 10).await;
        let last = "update failed_messages set reason = 'crash_loop' where status = 'dead'
                    and id = (select max(id) from failed_messages where status = 'dead')";
        let changed = sqlx::query(last).execute(&system.pool).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "the last message was retried before it changed");
    };
    let (report, ()) = tokio::join!(system.cli(&retry), change);
    assert_eq!(report.exits(1).json(), json!({ "matched": 10, "done": 9, "skipped": 1, "failed": 0 }));
    system.settled(10).await;
    assert_eq!(system.count("select count(*) from failed_messages where reason = 'crash_loop'").await, 1);
    system.close_after([worker]).await;
}
