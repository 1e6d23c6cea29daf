//! Messages that fail, and events that are not published.

use std::{cell::Cell, time::Duration};

use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};

use crate::{
    harness::{DRAINS_WITHIN, allocate, change_batch_quantity, create_batch, properties, wait_for},
    ops::stage::Stage,
};

use super::processes::publish_to;

async fn send_invalid(stage: &Stage, id: &str) {
    stage.system.sender.publish_raw("allocate", properties("allocate", id), b"no JSON").await;
}

/// One dead letter is no reason to wake a person.
pub(super) async fn dead_letter(name: &str) {
    let stage = Stage::new(name, &[]).await;
    send_invalid(&stage, "invalid").await;
    stage.fires(&["DeadLetters orders"]).await;
    stage.discard(1).await;
    stage.ends(1).await;
}

/// A sender whose messages are invalid.
pub(super) async fn many_dead_letters(name: &str) {
    let stage = Stage::new(name, &[]).await;
    let (stopped, sent) = (Cell::new(false), Cell::new(0));
    let sending = async {
        let mut every = tokio::time::interval(Duration::from_millis(100));
        while !stopped.get() {
            every.tick().await;
            sent.set(sent.get() + 1);
            send_invalid(&stage, &format!("invalid-{}", sent.get())).await;
        }
    };
    let observing = async {
        stage.fires(&["DeadLetterRate orders", "DeadLetters orders"]).await;
        stopped.set(true);
    };
    tokio::join!(sending, observing);
    stage.discard(sent.get()).await;
    stage.ends(1).await;
}

pub(super) async fn unreadable(name: &str) {
    let stage = Stage::new(name, &[]).await;
    publish_to(&stage, "orders.unreadable").await;
    stage.fires(&["UnreadableMessages orders"]).await;
    let queue = stage.system.named("orders.unreadable");
    stage.system.channel().queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    stage.ends(1).await;
}

/// A header that is larger than a frame: the broker closes the connection.
pub(super) async fn parked_event(name: &str) {
    let stage = Stage::new(name, &[]).await;
    stage
        .system
        .execute(
            "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, traceparent)
             values ('allocated', 'LAMP', 1, '{}', 'c', 'c', repeat('x', 200000))",
        )
        .await;
    stage.fires(&["EventsParked"]).await;
    stage.system.execute("delete from outbox").await;
    stage.ends(1).await;
}

/// A retry is due, and its queue does not exist.
pub(super) async fn missing_queue(name: &str) {
    let stage = Stage::new(name, &[("ALLOCATION__RETRY__INITIAL_INTERVAL", "3s")]).await;
    stage.system.sender.send(&change_batch_quantity("missing", 5)).await;
    let retrying =
        async || stage.system.count("select count(*) from failed_messages where status = 'retrying'").await;
    wait_for("it is retried", DRAINS_WITHIN, &1, retrying).await;
    let stock = stage.system.named("stock");
    stage.system.channel().queue_delete(stock.into(), QueueDeleteOptions::default()).await.unwrap();
    stage.fires(&["RetriesOverdue", "ServerUnavailable broker"]).await;
    stage.system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    stage.system.cli(&["topology"]).await.exits(0);
    stage.system.sender.send_all(&[create_batch("missing", "LAMP", 5)]).await;
    stage.ends(4).await;
}
