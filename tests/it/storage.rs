//! Failed messages take a limited space in the database.

use serde_json::json;

use crate::harness::{DRAINS_WITHIN, Random, TestSystem, create_batch, properties, wait_for, wait_until};

/// More than the tables need without rows.
const LIMIT: (&str, &str) = ("ALLOCATION__LIMITS__FAILED_MESSAGES", "2 MB");

/// Text that cannot be compressed much.
fn text(random: &mut Random, length: usize) -> String {
    (0..length).map(|_| char::from(b'0' + u8::try_from(random.below(70)).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_queue_is_consumed_while_failed_messages_take_more_than_their_limit() {
    let system =
        TestSystem::new("no_queue_is_consumed_while_failed_messages_take_more_than_their_limit").await;
    system.expect_redeliveries();
    let (process, client) = system.api("worker,relay,api", &[LIMIT]).await;
    let mut random = Random::seeded(3);
    for number in 0..20 {
        let body = text(&mut random, 200_000);
        system
            .sender
            .publish_raw("allocate", properties("allocate", &format!("{number}")), body.as_bytes())
            .await;
    }
    let stopped = async || process.log().contains("no queue is consumed");
    wait_until("consumption stops", DRAINS_WITHIN, stopped).await;
    for queue in ["orders", "stock"] {
        wait_for("no consumer is left", DRAINS_WITHIN, &0, async || system.consumers(queue).await).await;
    }
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    let not_ready = client.get("/health/ready").await;
    let report = not_ready.expect_status(503).json();
    assert_eq!(report["failed_messages"], "more than limits.failed_messages", "{report}");
    assert_eq!(report["not_consuming"], json!(["orders", "stock"]), "{report}");
    let status = system.cli_with(&["status"], &[LIMIT]).await.exits(1);
    assert!(status.stdout().contains("no queue is consumed until they take less"), "{}", status.stdout());
    assert_eq!(system.ready("stock").await, 1);

    system.execute("delete from failed_messages").await;
    system.wait_handled(1).await;
    client.wait_until_ready().await;
    let status = system.cli_with(&["status", "--json"], &[LIMIT]).await.exits(0).json();
    assert!(status["failed_message_bytes"].as_u64().unwrap() < 2_000_000, "{status}");
    system.close_after([process]).await;
}
