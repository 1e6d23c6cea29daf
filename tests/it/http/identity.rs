//! The identity of a command over HTTP: its key, its type and its body.

use serde_json::json;

use crate::harness::{JSON, TestSystem};

use super::{FAILURES, ROLES, add_batch, batch, line, post_with_key};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_with_another_command_or_body_is_a_conflict() {
    let system = TestSystem::new("a_key_that_was_used_with_another_command_or_body_is_a_conflict").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    let wanted = line("o-1", "LAMP", 2);
    post_with_key(&client, "k", "/allocate", &wanted).await.expect_status(202);
    for (path, body) in [("/deallocate", &wanted), ("/allocate", &line("o-2", "LAMP", 2))] {
        let conflict = post_with_key(&client, "k", path, body).await.expect_status(422).message();
        let expected =
            "Idempotency-Key was already used with another command or body. The command was not processed";
        assert_eq!(conflict, expected);
    }
    let recounted = json!({ "batchref": "b-1", "qty": 7 });
    post_with_key(&client, "k", "/change_batch_quantity", &recounted).await.expect_status(202);
    post_with_key(&client, "k", "/add_batch", &recounted).await.expect_status(400);
    post_with_key(&client, "k", "/add_batch", &batch("b-2", "LAMP", 7)).await.expect_status(422);
    client.get("/orders/o-1").await.expect_status(200);
    client.get("/orders/o-2").await.expect_status(404);
    assert_eq!(system.count(FAILURES).await, 0);
    system.settled(3).await;
    system.close_after([api]).await;
}

/// Two different keys must never become one.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_value_of_printable_utf8() {
    let system = TestSystem::new("a_key_is_one_value_of_printable_utf8").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    let wanted = line("o-1", "LAMP", 2);
    let longest = "k".repeat(200);
    for key in ["josé", "日本", &longest] {
        for _ in 0..2 {
            post_with_key(&client, key, "/allocate", &wanted).await.expect_status(202);
        }
    }
    let too_long = "é".repeat(128);
    let invalid: [&[u8]; 8] = [
        b"jos\xe9",
        b"jos\xe8",
        b"a\tb",
        "a\u{202e}b".as_bytes(),
        "\u{200b}".as_bytes(),
        b"",
        b" ",
        too_long.as_bytes(),
    ];
    for key in invalid {
        let refused = client.request_with_key("/allocate", key, &wanted).await.expect_status(400).message();
        assert!(refused.contains("Idempotency-Key must be one value of 1 to 200 printable"), "{refused}");
    }
    let twice = [JSON, ("Idempotency-Key", "one"), ("Idempotency-Key", "two")];
    let body = wanted.to_string();
    client.request("POST", "/allocate", &twice, body.as_bytes()).await.expect_status(400).message();
    assert_eq!(system.handled().await, 4);
    system.settled(4).await;
    system.close_after([api]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_traceparent_of_the_w3c_is_copied_to_events() {
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let system = TestSystem::new("only_a_traceparent_of_the_w3c_is_copied_to_events").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    let (long, upper) = ("x".repeat(10_000), VALID.to_uppercase());
    for (number, value) in [VALID, &long, &upper, "00-zz"].into_iter().enumerate() {
        let wanted = line(&format!("o-{number}"), "LAMP", 1).to_string();
        let headers =
            [JSON, ("traceparent", value), ("tracestate", "congo=t61rcWkgMzE"), ("tracestate", "rojo=1")];
        client.request("POST", "/allocate", &headers, wanted.as_bytes()).await.expect_status(202);
    }
    let events = system.settled(5).await;
    let copied: Vec<_> = events.iter().map(|event| event.header("traceparent")).collect();
    assert_eq!(copied, [Some(VALID.into()), None, None, None]);
    let copied: Vec<_> = events.iter().map(|event| event.header("tracestate")).collect();
    assert_eq!(copied, [Some("congo=t61rcWkgMzE,rojo=1".into()), None, None, None]);
    system.close_after([api]).await;
}
