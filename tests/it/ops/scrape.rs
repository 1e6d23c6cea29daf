//! Every expression of the rules and of the dashboard finds series of real processes.

use std::collections::BTreeSet;

use lapin::options::QueueDeleteOptions;
use serde_json::json;

use crate::harness::{
    DRAINS_WITHIN, allocate, change_batch_quantity, deallocate, has_prometheus, properties, wait_for,
};

use super::{
    dashboard,
    expressions::selectors,
    rules::alerts,
    stage::{STOCK, Stage, WORKER, alone},
};

/// What the processes are asked for, with the place that uses it.
fn queries() -> BTreeSet<(String, String)> {
    let dashboard = dashboard::expressions("5s");
    let rules = alerts().into_iter().map(|alert| (alert.name, alert.expression)).collect::<Vec<_>>();
    let selected = dashboard.iter().chain(&rules).flat_map(|(place, expression)| {
        selectors(expression).into_iter().map(|selector| (place.clone(), selector.to_owned()))
    });
    selected.collect::<Vec<_>>().into_iter().chain(dashboard.clone()).collect()
}

/// How many commands are handled in the end.
const HANDLED: usize = 9;

/// Commands, failures and events of every kind.
async fn work(stage: &mut Stage) {
    let system = &stage.system;
    let line = allocate("o-1", "LAMP", 1);
    system.sender.send_all(&[line.clone(), line, deallocate("o-1", "LAMP")]).await;
    system.sender.send_all(&[change_batch_quantity("b-1", 50), allocate("o-2", "LAMP", STOCK + 1)]).await;
    system.sender.publish_raw("allocate", properties("allocate", "invalid"), b"no JSON").await;
    let line = json!({"orderid": "o-3", "sku": "LAMP", "qty": 1});
    stage.api.post("/allocate", &line).await.expect_status(202);
    // A command that is retried once.
    system.sender.send(&change_batch_quantity("b-2", 5)).await;
    let retrying = "select count(*) from failed_messages where status in ('retrying', 'resolved')";
    wait_for("a command is retried", DRAINS_WITHIN, &1, async || system.count(retrying).await).await;
    system.sender.send(&crate::harness::create_batch("b-2", "LAMP", 5)).await;
    // An event without a subscriber, and a lost connection.
    let observer = system.named("observer");
    system.channel().queue_delete(observer.into(), QueueDeleteOptions::default()).await.unwrap();
    system.sender.send(&allocate("o-4", "LAMP", 1)).await;
    system.wait_drained(HANDLED).await;
    stage.broker.cut();
    stage.restart(WORKER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_finds_series() {
    if !has_prometheus() {
        return;
    }
    let _alone = alone().await;
    let mut stage = Stage::new("every_expression_finds_series", &[]).await;
    work(&mut stage).await;
    let queries = queries();
    assert!(queries.len() > 80, "only {} queries were found", queries.len());
    let missing = async || {
        let mut missing = Vec::new();
        for (place, query) in &queries {
            if stage.query(query).await.is_empty() {
                missing.push(format!("{place}: {query}"));
            }
        }
        missing
    };
    wait_for("every expression finds series", DRAINS_WITHIN, &Vec::new(), missing).await;
    stage.discard(1).await;
    stage.ends(HANDLED).await;
}
