//! Requests during a shutdown.

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

/// Allocates one line after another until a request has no response. Returns the orders with a response, and its status.
async fn allocate_until_no_response(
    client: Client,
    sender: u32,
    responses: Arc<AtomicUsize>,
) -> Vec<(String, u16)> {
    let mut answered = Vec::new();
    for number in 0_u64.. {
        let orderid = format!("o-{sender}-{number}");
        let body = line(&orderid, "LAMP", 1).to_string();
        let Ok(response) = client.try_request("POST", "/allocate", &[JSON], body.as_bytes()).await else {
            break;
        };
        responses.fetch_add(1, Ordering::Relaxed);
        answered.push((orderid, response.status));
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_during_a_shutdown_is_both_handled_and_answered_or_neither() {
    let system = TestSystem::new("a_request_during_a_shutdown_is_both_handled_and_answered_or_neither").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 1_000_000)).await;
    let (mut requests, responses) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    for sender in 0..20 {
        requests.spawn(allocate_until_no_response(client.clone(), sender, responses.clone()));
    }
    let busy = async || responses.load(Ordering::Relaxed) > 200;
    wait_until("requests are answered", DRAINS_WITHIN, busy).await;
    assert!(api.terminate().await.success());

    let answered = requests.join_all().await.into_iter().flatten();
    let answered: BTreeSet<_> = answered
        .map(|(orderid, status)| {
            assert_eq!(status, 202, "{orderid}");
            orderid
        })
        .collect();
    let allocated = system.allocated_lines().await;
    let orders: BTreeSet<_> = allocated.keys().map(|(orderid, _)| orderid.clone()).collect();
    assert_eq!(orders, answered, "the allocated orders are those with a response");
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.settled(allocated.len() + 1).await;
    system.close_after([relay]).await;
}

/// A lock of another transaction makes the request last beyond the shutdown signal. A client with an idle connection does
/// not delay the shutdown.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_began_before_a_shutdown_is_answered() {
    let system = TestSystem::new("a_request_that_began_before_a_shutdown_is_answered").await;
    let (api, client) = system.api(ROLES, &[]).await;
    add_batch(&client, &batch("b-1", "LAMP", 10)).await;
    system.wait_drained(1).await;
    let mut idle = TcpStream::connect(client.address()).await.unwrap();
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap(); // the connection is idle after this response
    let mut other = system.pool.begin().await.unwrap();
    sqlx::query("select from products where sku = 'LAMP' for update").execute(&mut *other).await.unwrap();
    let request = tokio::spawn({
        let client = client.clone();
        async move { allocate(&client, "o-1", "LAMP", 2).await }
    });
    wait_until("the request waits for the lock", SOON, async || system.waiting_for_locks().await > 0).await;
    let answered = async {
        let refused = async || TcpStream::connect(client.address()).await.is_err();
        wait_until("new connections are refused", SOON, refused).await;
        assert!(!request.is_finished());
        other.rollback().await.unwrap();
        request.await.expect("the request is answered");
    };
    let (ended, ()) = tokio::join!(api.terminate(), answered);
    assert!(ended.success());
    drop(idle);
    let relay = system.start(&["run", "--only", "relay"], &[]);
    system.settled(2).await;
    system.close_after([relay]).await;
}
