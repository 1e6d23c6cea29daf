//! Processes that do not run.

use lapin::{BasicProperties, options::BasicPublishOptions};

use crate::{
    harness::{DRAINS_WITHIN, allocate, wait_for, wait_until},
    ops::stage::{ARCHIVE, RELAY, Stage, WORKER},
};

pub(super) async fn no_worker(name: &str) {
    let mut stage = Stage::new(name, &[]).await;
    stage.stop(WORKER).await;
    stage.system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    stage
        .fires(&[
            "NoConsumers notifications main",
            "NoConsumers orders main",
            "NoConsumers stock main",
            "QueueNotMoving orders",
        ])
        .await;
    stage.start(WORKER);
    stage.ends(2).await;
}

pub(super) async fn no_relay(name: &str) {
    let mut stage = Stage::new(name, &[]).await;
    stage.stop(RELAY).await;
    stage.fires(&["RelayLeaders"]).await;
    stage.start(RELAY);
    stage.ends(1).await;
}

/// The broker has dead-lettered a message.
pub(super) async fn no_archive(name: &str) {
    let mut stage = Stage::new(name, &[]).await;
    stage.stop(ARCHIVE).await;
    publish_to(&stage, "orders.dlq").await;
    stage
        .fires(&[
            "ArchiveBehind orders",
            "NoConsumers notifications dead_letter",
            "NoConsumers orders dead_letter",
            "NoConsumers stock dead_letter",
        ])
        .await;
    stage.start(ARCHIVE);
    stage.discard(1).await;
    stage.ends(1).await;
}

/// Publishes a message to a queue, past the exchange of commands.
pub(super) async fn publish_to(stage: &Stage, queue: &str) {
    let queue = stage.system.named(queue);
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let publish = stage.system.channel().basic_publish("".into(), queue.into(), options, b"{}", properties);
    publish.await.unwrap();
}

pub(super) async fn none(name: &str) {
    let mut stage = Stage::new(name, &[]).await;
    for roles in [RELAY, WORKER, ARCHIVE] {
        stage.stop(roles).await;
    }
    stage.fires(&["NoProcessReports"]).await;
    for roles in [RELAY, WORKER, ARCHIVE] {
        stage.start(roles);
    }
    stage.ends(1).await;
}

/// A worker that neither handles messages nor ends. It holds its prefetch; the others are ready.
pub(super) async fn unresponsive_worker(name: &str) {
    let small = [("ALLOCATION__WORKER__MAX_BATCH", "2"), ("ALLOCATION__WORKER__PREFETCH", "4")];
    let stage = Stage::new(name, &small).await;
    stage.process(WORKER).pause().await;
    let lines: Vec<_> = (0..20).map(|number| allocate(&format!("o-{number}"), "LAMP", 1)).collect();
    stage.system.sender.send_all(&lines).await;
    stage.fires(&["QueueNotMoving orders"]).await;
    stage.process(WORKER).resume().await;
    stage.ends(21).await;
}

/// Five workers end while they handle the same message; the next one dead-letters it.
pub(super) async fn crash_loop(name: &str) {
    let mut stage = Stage::new(name, &[]).await;
    let hangs = "create function hang() returns trigger language plpgsql as $$
                 begin perform pg_sleep(60); return new; end $$;
                 create trigger hangs before insert on inbox for each row when (new.message_id = 'crashes')
                 execute function hang()";
    stage.system.execute(hangs).await;
    stage.system.sender.send(&allocate("o-1", "LAMP", 1).with_id("crashes")).await;
    let sleeping = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event = 'PgSleep'";
    let wake = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and wait_event = 'PgSleep'";
    for crash in 1..=5 {
        let handled = async || stage.system.count(sleeping).await;
        wait_for("the message is being handled", DRAINS_WITHIN, &1, handled).await;
        stage.take(WORKER).kill().await;
        stage.system.count(wake).await;
        let handled = async || stage.system.count(sleeping).await;
        wait_for("the session has ended", DRAINS_WITHIN, &0, handled).await;
        if crash == 5 {
            stage.system.execute("drop trigger hangs on inbox").await;
        }
        stage.start(WORKER);
    }
    let dead = "select count(*) from failed_messages where status = 'dead' and reason = 'crash_loop'";
    wait_until("it is dead", DRAINS_WITHIN, async || stage.system.count(dead).await == 1).await;
    stage.settles(&["CrashLoop orders"], &["DeadLetters orders"]).await;
    stage.discard(1).await;
    stage.ends(1).await;
}
