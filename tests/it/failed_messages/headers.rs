//! Headers and correlation of a message that is retried.

use lapin::types::{AMQPValue, FieldTable};

use crate::harness::{DRAINS_WITHIN, TestSystem, create_batch, properties, wait_for};

/// JSON of these headers would be deeper than its readers allow.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_correlation_and_headers_at_any_depth() {
    let system = TestSystem::new("a_retry_keeps_correlation_and_headers_at_any_depth").await;
    let worker = system.worker();
    let nested = (0..200).fold(AMQPValue::LongString("bottom".into()), |inner, _| {
        let mut table = FieldTable::default();
        table.insert("inner".into(), inner);
        AMQPValue::FieldTable(table)
    });
    let mut headers = FieldTable::default();
    headers.insert("deep".into(), nested);
    let sent = properties("allocate", "deep").with_correlation_id("corr".into()).with_headers(headers);
    let body = br#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#;
    system.sender.publish_raw("allocate", sent, body).await;
    let retrying = "select count(*) from failed_messages where status = 'retrying'";
    wait_for("it is retrying", DRAINS_WITHIN, &1, async || system.count(retrying).await).await;
    let before: Vec<u8> =
        sqlx::query_scalar("select original from failed_messages").fetch_one(&system.pool).await.unwrap();
    assert!(before.windows(6).filter(|bytes| bytes == b"\x05inner").count() == 200, "every level is kept");
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    let events = system.settled(2).await;
    let correlation = events[0].properties.correlation_id().as_ref().map(ToString::to_string);
    assert_eq!(correlation.as_deref(), Some("corr"));
    system.close_after([worker]).await;
}
