//! What becomes of requests when the process is stopped.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{Client, DRAINS_WITHIN, JSON, SOON, TestSystem, wait_until};

use super::{ROLES, add_batch, allocate, batch, line};

/// Allocates one line after the other until there is no response; returns the lines with a response, and its status.
async fn ask_until_no_response(client: Client, who: u32, answers: Arc<AtomicUsize>) -> Vec<(String, u16)> {
    let mut answered = Vec::new();
    for number in 0_u64.. {
        let orderid = format!("o-{who}-{number}");
        let body = line(&orderid, "LAMP", 1).to_string();
        let Ok(answer) = client.ask("POST", "/allocate", &[JSON], body.as_bytes()).await else { break };
        answers.fetch_add(1, Ordering::Relaxed);
        answered.push((orderid, answer.status));
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_the_time_of_a_stop_is_done_and_answered_or_not_answered_at_all() {
    let system =
        TestSystem::new("a_request_at_the_time_of_a_stop_is_done_and_answered_or_not_answered_at_all").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 1_000_000)).await;
    let (mut asking, answers) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    for who in 0..20 {
        asking.spawn(ask_until_no_response(client.clone(), who, answers.clone()));
    }
    let busy = async || answers.load(Ordering::Relaxed) > 200;
    wait_until("requests are answered", DRAINS_WITHIN, busy).await;
    assert!(api.terminate().await.success());

    let answered = asking.join_all().await.into_iter().flatten();
    let answered: BTreeSet<_> = answered
        .map(|(orderid, status)| {
            assert_eq!(status, 202, "{orderid}");
            orderid
        })
        .collect();
    let allocated = system.allocated_lines().await;
    let done: BTreeSet<_> = allocated.keys().map(|(orderid, _)| orderid.clone()).collect();
    assert_eq!(done, answered, "what is done is answered, and what is answered is done");
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.settled(allocated.len() + 1).await;
    system.close_after([relay]).await;
}

/// A lock that another transaction holds makes the request last until after the stop; a client that keeps its connection open
/// and asks nothing does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_begun_before_a_stop_is_answered() {
    let system = TestSystem::new("a_request_that_was_begun_before_a_stop_is_answered").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    system.wait_drained(1).await;
    let mut idle = TcpStream::connect(client.address()).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap(); // it was answered, and may ask again
    let mut other = system.pool.begin().await.unwrap();
    sqlx::query("select from products where sku = 'LAMP' for update").execute(&mut *other).await.unwrap();
    let asked = tokio::spawn({
        let client = client.clone();
        async move { allocate(&client, "o-1", "LAMP", 2).await }
    });
    wait_until("the request waits for the lock", SOON, async || system.waiting_for_locks().await > 0).await;
    let answered = async {
        let refused = async || TcpStream::connect(client.address()).await.is_err();
        wait_until("no new client is served", SOON, refused).await;
        assert!(!asked.is_finished());
        other.rollback().await.unwrap();
        asked.await.expect("it is answered");
    };
    let (ended, ()) = tokio::join!(api.terminate(), answered);
    assert!(ended.success());
    drop(idle);
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.settled(2).await;
    system.close_after([relay]).await;
}
