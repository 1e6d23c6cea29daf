//! The memory of a process is bounded by the bytes of its messages, not by their number.

use serde_json::json;

use crate::harness::{Command, DRAINS_WITHIN, Running, TestSystem, allocate, create_batch, wait_for};

/// Memory for bodies. The messages of each test have several times as much.
const MEMORY: (&str, &str) = ("ALLOCATION__LIMITS__MEMORY", "16 MB");
/// A process without a limit for bodies needs more.
const LIMIT_KIB: u64 = 110 << 10;
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
/// A command fails for good at its first attempt.
const ONE_ATTEMPT: (&str, &str) = ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1");

/// The command with this many more bytes in its body, in a field that is ignored.
fn padded(command: Command, bytes: usize) -> Command {
    command.with("padding", json!("x".repeat(bytes)))
}

fn lines(count: usize) -> Vec<Command> {
    (0..count).map(|number| padded(allocate(&format!("o-{number}"), "LAMP", 1), 255_000)).collect()
}

fn assert_small(process: &Running, limit_kib: u64) {
    let peak = process.peak_memory_kib();
    assert!(peak < limit_kib, "the process needed {peak} KiB:\n{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_are_handled_a_few_at_a_time() {
    let system = TestSystem::new("large_commands_are_handled_a_few_at_a_time").await;
    system.sender.send(&create_batch("b", "LAMP", 10_000)).await;
    let batches: Vec<_> =
        (0..250).map(|number| padded(create_batch(&format!("b-{number}"), "LAMP", 1), 255_000)).collect();
    let process = system.worker_with(&[MEMORY]);
    system.wait_handled(1).await;
    system.sender.send_all(&batches).await;
    system.sender.send_all(&lines(250)).await;
    system.settled(501).await;
    assert_small(&process, LIMIT_KIB);
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_dead_letters_are_recorded_and_retried_a_few_at_a_time() {
    let system = TestSystem::new("large_dead_letters_are_recorded_and_retried_a_few_at_a_time").await;
    system.sender.send_all(&lines(250)).await;
    let process = system.worker_with(&[MEMORY, ONE_ATTEMPT]);
    wait_for("the commands are dead", DRAINS_WITHIN, &250, async || system.count(DEAD).await).await;
    system.sender.send(&create_batch("b", "LAMP", 10_000)).await;
    system.wait_handled(1).await;
    system.cli(&["dead-letters", "retry", "--all"]).await.exits(0);
    system.settled(251).await;
    assert_small(&process, LIMIT_KIB);
    system.close_after([process]).await;
}

/// The size of the first messages is not known before they are delivered.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_megabytes_are_dead_lettered_one_at_a_time() {
    let system = TestSystem::new("messages_of_many_megabytes_are_dead_lettered_one_at_a_time").await;
    for number in 0..20 {
        system.sender.send(&padded(allocate(&format!("o-{number}"), "LAMP", 1), 8 << 20)).await;
    }
    let process = system.worker_with(&[MEMORY]);
    wait_for("the messages are dead", DRAINS_WITHIN, &20, async || system.count(DEAD).await).await;
    assert_small(&process, LIMIT_KIB + (50 << 10));
    system.expect_dead(20);
    system.close_after([process]).await;
}
