//! Concurrent requests share a unit of work.

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{SOON, TestSystem, wait_until};

use super::{FAILURES, ROLES, add_batch, batch, line, post_with_key};

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_shared_unit_of_work_has_its_own_response() {
    let system = TestSystem::new("each_request_of_a_shared_unit_of_work_has_its_own_response").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 1000)).await;
    // The lock makes the requests wait, so that they share a unit of work.
    let mut locker = system.pool.begin().await.unwrap();
    sqlx::query("select from products for update").execute(&mut *locker).await.unwrap();
    let mut cases = vec![("same".to_owned(), line("same", "LAMP", 1), 202); 4];
    cases.push(("same".into(), line("other-body", "LAMP", 1), 422));
    cases.push(("rejected".into(), line("rejected", "NO-SUCH-SKU", 1), 400));
    cases.push(("invalid".into(), json!({ "orderid": "invalid" }), 400));
    cases.extend((0..40).map(|n| (format!("good-{n}"), line(&format!("good-{n}"), "LAMP", 1), 202)));
    let mut requests = JoinSet::new();
    for (key, body, status) in cases {
        let client = client.clone();
        requests.spawn(async move {
            let response = post_with_key(&client, &key, "/allocate", &body).await;
            (key, response.status, status)
        });
    }
    wait_until("requests wait for the lock", SOON, async || system.waiting_for_locks().await > 0).await;
    locker.rollback().await.unwrap();
    let mut same = Vec::new();
    for (key, status, expected) in requests.join_all().await {
        if key == "same" {
            same.push(status);
        } else {
            assert_eq!(status, expected, "{key}");
        }
    }
    // Of the five requests with one key, the first decides which body is valid.
    same.sort_unstable();
    assert!(same == [202, 202, 202, 202, 422] || same == [202, 422, 422, 422, 422], "{same:?}");
    assert_eq!(system.count("select count(*) from order_lines").await, 41);
    assert_eq!(system.count(FAILURES).await, 0);
    system.settled(42).await;
    system.close_after([api]).await;
}
