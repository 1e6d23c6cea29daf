//! Health checks of processes without the role `api`.

use crate::harness::{Client, TestSystem, free_address};

const SETTING: &str = "ALLOCATION__HEALTH__LISTEN";

#[tokio::test(flavor = "multi_thread")]
async fn every_role_answers_health_checks_at_an_address_of_its_own() {
    let system = TestSystem::new("every_role_answers_health_checks_at_an_address_of_its_own").await;
    for role in ["worker", "relay", "archive", "notifier", "api"] {
        let address = free_address().await;
        let (listen, api) = (address.to_string(), free_address().await.to_string());
        let environment = [(SETTING, listen.as_str()), ("ALLOCATION__API__LISTEN", api.as_str())];
        let process = system.start(&["run", "--only", role], &environment);
        let client = Client::of(address);
        client.wait_until_ready().await;
        let live = client.get("/health/live").await.expect_status(200).json();
        assert_eq!(live, serde_json::json!({ "live": true, "stuck": [] }), "{role}");
        let ready = client.get("/health/ready").await.expect_status(200).json();
        assert_eq!(ready["since"], serde_json::json!({}), "{role}: {ready}");
        client.get("/availability/LAMP").await.expect_status(404);
        for arguments in [&["health"][..], &["health", "--ready"]] {
            let answer = system.cli_with(arguments, &environment).await.exits(0);
            assert!(answer.text().contains("true"), "{role}: {}", answer.text());
        }
        process.terminate().await;
        let unanswered = system.cli_with(&["health"], &environment).await.exits(1);
        assert!(unanswered.text().contains("health.listen"), "{}", unanswered.text());
    }
    system.close().await;
}
