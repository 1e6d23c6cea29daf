//! A test removes everything from the shared servers, also after a failure or a kill.

use std::process::Stdio;

use lapin::{options::QueueDeclareOptions, types::FieldTable};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::harness::{SOON, TestSystem, processes_of, wait_until};

/// How the test below ends: `fails` or `hangs`.
const ENDING: &str = "ALLOCATION_TEST_ENDING";

/// Not a test by itself: the other tests start it in a process.
#[tokio::test]
#[ignore = "other tests of this file start it"]
async fn a_test_that_fails_or_hangs() {
    let ending = std::env::var(ENDING).unwrap();
    let system = TestSystem::new("a_test_that_fails_or_hangs").await;
    let worker = system.worker();
    wait_until("the worker logs", SOON, async || !worker.log().is_empty()).await;
    println!("namespace={}", system.namespace);
    if ending == "hangs" {
        std::future::pending::<()>().await;
    }
    panic!("this test fails");
}

/// Starts the test above in a process. Returns the process and its namespace.
async fn start(ending: &str) -> (Child, String) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["test_cleanup::a_test_that_fails_or_hangs", "--exact", "--ignored", "--nocapture"])
        .env(ENDING, ending)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, namespace)) = line.split_once("namespace=") {
            let namespace = namespace.to_owned();
            // Reads the remaining output, so that the process is never blocked by a full pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (process, namespace);
        }
    }
    panic!("the test process did not print its namespace");
}

async fn assert_nothing_is_left(system: &TestSystem, namespace: &str) {
    assert_eq!(processes_of(namespace), Vec::<u32>::new(), "processes are left");
    let unique = namespace.rsplit('.').next().unwrap();
    let databases: i64 = sqlx::query_scalar("select count(*) from pg_database where datname like '%' || $1")
        .bind(unique)
        .fetch_one(&system.pool)
        .await
        .unwrap();
    assert_eq!(databases, 0, "a database is left");
    for queue in [
        "orders",
        "orders.dlq",
        "orders.unreadable",
        "stock.unreadable",
        "notifications.unreadable",
        "observer",
    ] {
        let channel = system.new_channel().await;
        let passive = QueueDeclareOptions::durable().passive();
        let name = format!("{namespace}.{queue}");
        let declared = channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        assert!(declared.is_err(), "the queue {queue} is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_test_leaves_nothing() {
    let system = TestSystem::new("a_failed_test_leaves_nothing").await;
    let (mut process, namespace) = start("fails").await;
    assert!(!process.wait().await.unwrap().success());
    assert_nothing_is_left(&system, &namespace).await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_test_removes_what_a_killed_test_left() {
    let (mut process, namespace) = start("hangs").await;
    process.kill().await.unwrap();
    // The server may need a moment to notice that the session with the lock has ended.
    wait_until("the next test removes everything", SOON, async || {
        TestSystem::new("the next test").await.close().await;
        processes_of(&namespace).is_empty()
    })
    .await;
    let system = TestSystem::new("the_next_test_removes_what_a_killed_test_left").await;
    assert_nothing_is_left(&system, &namespace).await;
    system.close().await;
}
