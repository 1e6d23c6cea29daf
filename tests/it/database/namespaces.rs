//! One database belongs to one namespace.

use allocation::{
    adapters::postgres::PgOutbox,
    pg::PgConfig,
    ports::{error::error_text, outbox::Outbox as _},
};

use crate::harness::{CliOutput, SOON, TestSystem, allocate, create_batch, wait_until};

const OTHER: [(&str, &str); 1] = [("ALLOCATION__NAMESPACE", "other-shop")];

fn names_both(output: &CliOutput, system: &TestSystem) {
    let text = output.text();
    assert!(text.contains(&system.namespace) && text.contains("other-shop"), "{text}");
}

/// A system with an event that is not published, a dead letter, and no process.
async fn with_pending_work(name: &str) -> TestSystem {
    let system = TestSystem::new(name).await;
    let worker = system.start(&["run", "--only", "worker"], &[]);
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    system.sender.send(&allocate("o-1", "LAMP", 2)).await;
    system.sender.publish_raw("allocate", crate::harness::properties("allocate", "not-json"), b"{").await;
    system.wait_handled(2).await;
    let dead = async || system.count("select count(*) from failed_messages where status = 'dead'").await == 1;
    wait_until("a message is dead", SOON, dead).await;
    assert!(worker.terminate().await.success());
    system
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_namespace_refuses_to_start_and_publishes_nothing() {
    let name = "a_process_of_another_namespace_refuses_to_start_and_publishes_nothing";
    let system = with_pending_work(name).await;
    for role in ["relay", "worker", "archive", "notifier", "api"] {
        let port = [("ALLOCATION__API__LISTEN", "127.0.0.1:0"), OTHER[0]];
        names_both(&system.cli_with(&["run", "--only", role], &port).await.exits(1), &system);
    }
    let replacement = system.file("body.json", br#"{"orderid": "o-2", "sku": "LAMP", "qty": 1}"#);
    let replacement = replacement.to_str().unwrap();
    for command in [
        ["migrate"].as_slice(),
        &["status"],
        &["outbox", "retry", "--all"],
        &["view", "rebuild"],
        &["dead-letters", "retry", "--all"],
        &["dead-letters", "discard", "--all", "--why", "test"],
        &["dead-letters", "restore", "--all"],
        &["dead-letters", "edit", "1", "--body", replacement],
        &["send", "--follow", "create_batch", "--ref", "b-2", "--sku", "LAMP", "--qty", "1"],
    ] {
        names_both(&system.cli_with(command, &OTHER).await.exits(1), &system);
    }
    assert_eq!(system.count("select count(*) from outbox").await, 1, "the event is kept");
    assert_eq!(system.count("select count(*) from failed_actions").await, 0, "no action was done");
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.events_of(1).await;
    system.expect_dead(1);
    system.close_after([relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_renames_the_namespace_when_no_relay_is_running() {
    let system = with_pending_work("migrate_renames_the_namespace_when_no_relay_is_running").await;
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.events_of(1).await;
    let refused = system.cli_with(&["migrate", "--rename-namespace"], &OTHER).await.exits(1).text();
    assert!(refused.contains("a relay") && refused.contains(&system.namespace), "{refused}");
    assert!(relay.terminate().await.success());

    // A standby that goes on running does not publish for the former namespace.
    let config = PgConfig::new(&system.database_url(), 2, SOON).unwrap();
    let standby = PgOutbox::new(config, &system.namespace, std::sync::Arc::default());
    system.cli_with(&["migrate", "--rename-namespace"], &OTHER).await.exits(0);
    let refused = error_text(&standby.try_lead().await.map(drop).unwrap_err());
    assert!(refused.contains("other-shop"), "{refused}");
    drop(standby);
    let refused = system.cli(&["run", "--only", "relay"]).await.exits(1);
    names_both(&refused, &system);
    let recorded = "select count(*) from installation where namespace = 'other-shop'";
    assert_eq!(system.count(recorded).await, 1);
    system.expect_dead(1);
    system.close().await;
}

/// A schema that another tool has migrated has no namespace yet.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_records_the_namespace() {
    let system = TestSystem::new("the_first_run_records_the_namespace").await;
    system.execute("delete from installation").await;
    let worker = system.worker();
    let recorded = async || system.count("select count(*) from installation").await == 1;
    wait_until("the namespace is recorded", SOON, recorded).await;
    names_both(&system.cli_with(&["run", "--only", "relay"], &OTHER).await.exits(1), &system);
    system.close_after([worker]).await;
}
