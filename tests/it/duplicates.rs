//! Duplicates: a message is sent again, redelivered, or published twice for one retry. It has one effect.

mod concurrent;
mod identity;
mod resent;
mod retries;

use lapin::options::{BasicGetOptions, BasicRejectOptions};

use crate::harness::{Command, DRAINS_WITHIN, TestSystem, allocate, wait_for};

const ONE_ATTEMPT: &[(&str, &str)] = &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";
const ROWS: &str = "select count(*) from failed_messages";
const ATTEMPTS: &str = "select count(*) from failed_attempts";
const LINES: &str = "select count(*) from order_lines";

async fn execute(system: &TestSystem, statements: &'static str) {
    sqlx::raw_sql(statements).execute(&system.pool).await.unwrap();
}

async fn dead_letters(system: &TestSystem, arguments: &[&str]) {
    system.cli(&[&["--json", "dead-letters"][..], arguments].concat()).await.exits(0);
}

/// A dead letter: a line with an unknown SKU.
async fn dead_line(system: &TestSystem) -> Command {
    let line = allocate("o-1", "LAMP", 1);
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&line).await;
    wait_for("the line is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    worker.terminate().await;
    line
}

/// Delivers the first message of a queue and returns it: its next delivery is a redelivery.
async fn deliver_once(system: &TestSystem, queue: &str) {
    let taken = system.channel().basic_get(system.named(queue).into(), BasicGetOptions::default());
    taken.await.unwrap().unwrap().reject(BasicRejectOptions { requeue: true }).await.unwrap();
}
