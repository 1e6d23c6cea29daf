//! Processes report themselves: what they do, what they wait for, and how they ended.

use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};

use crate::harness::{DRAINS_WITHIN, TestSystem, wait_for, wait_until};

async fn processes(system: &TestSystem) -> Vec<Value> {
    let output = system.cli(&["--json", "status"]).await;
    output.json()["processes"].as_array().expect("processes are listed").clone()
}

async fn wait_for_process(system: &TestSystem, what: &str, found: impl Fn(&Value) -> bool) {
    wait_until(what, DRAINS_WITHIN, async || processes(system).await.iter().any(&found)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_running_and_then_stopped_or_lost() {
    let system = TestSystem::new("a_process_is_running_and_then_stopped_or_lost").await;
    let all = ["worker", "relay", "archive", "notifier", "api"];
    let stopped = system.start(&["run", "--only", "archive,notifier"], &[]);
    let killed = system.worker();
    let roles = |roles: &[&str]| {
        let roles = json!(roles);
        move |process: &Value| process["roles"] == roles && process["status"] == "running"
    };
    wait_for_process(&system, "the first runs", |process| process["status"] == "running").await;
    wait_for_process(&system, "the second runs", roles(&["worker", "relay"])).await;
    for process in processes(&system).await {
        assert_eq!(process["version"], env!("CARGO_PKG_VERSION"), "{process}");
        let roles = process["roles"].as_array().unwrap();
        assert!(roles.iter().all(|role| all.contains(&role.as_str().unwrap())), "{process}");
        for nothing in ["busy", "unavailable", "not_consuming"] {
            assert_eq!(process["state"][nothing], json!([]), "{process}");
        }
    }
    stopped.terminate().await;
    wait_for_process(&system, "the first is stopped", |process| process["status"] == "stopped").await;
    killed.kill().await;
    // Its last report was seconds ago.
    let later = "update processes set seen_at = seen_at - interval '15 seconds' where stopped_at is null";
    sqlx::query(later).execute(&system.pool).await.unwrap();
    let found = processes(&system).await;
    assert!(found.iter().any(|process| process["status"] == "lost"), "{found:?}");
    let shown = system.cli(&["status"]).await;
    assert!(shown.stdout().contains("; lost: last seen "), "{}", shown.stdout());
    assert_eq!(shown.stdout().matches("process    ").count(), 1, "the stopped one is not shown");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_waits_for_is_reported_at_once() {
    let system = TestSystem::new("what_a_process_waits_for_is_reported_at_once").await;
    let worker = system.worker();
    wait_for("it consumes", DRAINS_WITHIN, &1, async || system.consumers("stock").await).await;
    let queue = system.named("stock");
    system.channel.queue_delete(queue.clone().into(), QueueDeleteOptions::default()).await.unwrap();
    let misses_it = |process: &Value| {
        let queues = process["state"]["not_consuming"].as_array().unwrap();
        queues.iter().any(|waiting| {
            waiting["queue"] == "stock" && waiting["error"].as_str().unwrap().contains("NOT_FOUND")
        })
    };
    wait_for_process(&system, "it reports the missing queue", misses_it).await;
    let shown = system.cli(&["status"]).await;
    assert!(shown.stdout().contains("; does not consume stock: "), "{}", shown.stdout());
    system.cli(&["topology"]).await.exits(0);
    wait_for_process(&system, "it consumes again", |process| process["state"]["not_consuming"] == json!([]))
        .await;
    system.close_after([worker]).await;
}
