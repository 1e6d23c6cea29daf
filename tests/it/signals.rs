//! Signals that stop a process.

use std::time::Duration;

use tokio::{process::Command, time::timeout};

use crate::harness::{DRAINS_WITHIN, Running, TestSystem, allocate, create_batch, wait_until};

async fn wait_running(process: &Running) {
    let running = async || process.log().contains("running");
    wait_until("the roles run", DRAINS_WITHIN, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stop_signal_is_an_orderly_stop() {
    let system = TestSystem::new("each_stop_signal_is_an_orderly_stop").await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    for (number, signal) in ["TERM", "INT", "HUP"].into_iter().enumerate() {
        let worker = system.worker();
        wait_running(&worker).await;
        system.sender.send(&allocate(&format!("o-{number}"), "LAMP", 1)).await;
        system.wait_handled(2 + number).await;
        let (ended, log) = worker.stop_with(signal).await;
        assert!(ended.success(), "SIG{signal}: {ended}");
        assert!(log.contains("shutting down") && log.contains("stopped"), "SIG{signal}: {log}");
    }
    let worker = system.worker();
    system.settled(4).await;
    system.close_after([worker]).await;
}

/// As `nohup` starts it: the end of the terminal does not concern the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_started_with_hangups_ignored_runs_on() {
    let system = TestSystem::new("a_process_that_was_started_with_hangups_ignored_runs_on").await;
    let log = system.file("log", b"");
    let run = "trap '' HUP; exec \"$0\" run --only worker,relay 2>\"$1\"";
    let program = env!("CARGO_BIN_EXE_allocation");
    let mut process = Command::new("sh")
        .args(["-c", run, program, log.to_str().unwrap()])
        .envs(system.environment())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    wait_until("the roles run", DRAINS_WITHIN, async || log().contains("running")).await;
    let kill =
        |signal: &str| Command::new("kill").args(["-s", signal, &process.id().unwrap().to_string()]).status();
    assert!(kill("HUP").await.unwrap().success());
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.wait_handled(1).await;
    assert!(!log().contains("shutting down"), "{}", log());
    assert!(kill("TERM").await.unwrap().success());
    let ended = timeout(Duration::from_secs(10), process.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    system.close().await;
}
