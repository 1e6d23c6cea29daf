//! Quantities: sums beyond 32 bits, and revisions of the quantity of a batch.

use serde_json::json;

use crate::harness::{TestSystem, allocate, change_batch_quantity, create_batch, deallocate};

/// The largest quantity that a command may have.
const MAX: u32 = 2_147_483_647;

#[tokio::test(flavor = "multi_thread")]
async fn sums_of_the_largest_quantities_are_correct() {
    let system = TestSystem::new("sums_of_the_largest_quantities_are_correct").await;
    let worker = system.worker();
    system.sender.send(&create_batch("first", "LAMP", 0)).await;
    system.wait_handled(1).await;
    let lines: Vec<_> = (0..50).map(|n| allocate(&format!("o-{n}"), "LAMP", MAX)).collect();
    system.sender.send_all(&lines).await;
    system.wait_handled(51).await;
    assert_eq!(system.count("select backordered from products").await, 50 * i64::from(MAX));
    let batches: Vec<_> = (0..30).map(|n| create_batch(&format!("b-{n:02}"), "LAMP", MAX)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(81).await;
    system.sender.send_all(&[change_batch_quantity("b-00", 0), change_batch_quantity("b-01", MAX - 1)]).await;
    system.wait_handled(83).await;
    system.sender.send(&deallocate("o-49", "LAMP")).await;
    system.settled(84).await;
    // Thirty lines were allocated, two of them lost their batch, and one backorder was cancelled.
    assert_eq!(system.count("select backordered from products").await, 21 * i64::from(MAX));
    assert_eq!(system.count("select sum(allocated)::bigint from batches").await, 28 * i64::from(MAX));
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_above_the_last_one_is_skipped() {
    let system = TestSystem::new("a_revision_that_is_not_above_the_last_one_is_skipped").await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 1)).await;
    system.wait_handled(1).await;
    let revisions = [(Some(5), 50), (Some(5), 51), (Some(4), 40), (None, 60), (Some(5), 52), (Some(6), 70)];
    let expected = [50, 50, 50, 60, 60, 70];
    for (number, ((revision, qty), expected)) in revisions.into_iter().zip(expected).enumerate() {
        let change = change_batch_quantity("b-1", qty).with_id(&format!("change-{number}"));
        system.sender.send(&change.with("revision", json!(revision))).await;
        system.wait_handled(2 + number).await;
        assert_eq!(system.count("select purchased::bigint from batches").await, expected, "change {number}");
    }
    system.settled(7).await;
    system.close_after([worker]).await;
}
