//! The address of the metrics.

use tokio::net::TcpListener;

use crate::harness::{ANY_PORT, Client, Metrics, SOON, TestSystem, metrics_address, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_the_only_path_and_are_only_read() {
    let system = TestSystem::new("metrics_are_the_only_path_and_are_only_read").await;
    let (process, metrics) = system.observed("archive", &[]).await;
    let client = metrics.client();
    let response = client.get("/metrics").await.expect_status(200);
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(response.header("content-type"), Some(openmetrics));
    assert!(response.text().ends_with("\n# EOF\n"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(response.text().contains(&format!("allocation_build_info{{version=\"{version}\"}} 1\n")));
    let stored = system.count("select max(version) from _sqlx_migrations").await;
    for kind in ["found", "expected"] {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        metrics.wait_for(&format!("schema_version{{kind=\"{kind}\"}}"), Some(stored as f64)).await;
    }
    metrics.wait_for(r#"subscribed{queue="stock",queue_kind="dead_letter"}"#, Some(1.0)).await;
    for path in ["/", "/metrics/", "/health/live", "/orders/o-1"] {
        client.get(path).await.expect_status(404);
    }
    for method in ["POST", "PUT", "DELETE"] {
        let response = client.request(method, "/metrics", &[], b"").await.expect_status(405);
        assert_eq!(response.header("allow"), Some("GET,HEAD"));
    }
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_is_used_if_the_port_is_taken() {
    let system = TestSystem::new("another_port_is_used_if_the_port_is_taken").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = (taken.local_addr().unwrap(), taken);
    let listen = taken.0.to_string();
    let process =
        system.start(&["run", "--only", "archive"], &[("ALLOCATION__METRICS__LISTEN", listen.as_str())]);
    let metrics = Metrics::of(&process).await;
    let used = metrics.client().address();
    assert_eq!(used.ip(), taken.0.ip());
    let distance = used.port() - taken.0.port();
    assert!((1..10).contains(&distance), "{used} instead of {listen}");
    assert!(metrics.scrape().await.get("relay_leader").is_none(), "the process has no relay");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_address_opens_no_port() {
    let system = TestSystem::new("an_empty_address_opens_no_port").await;
    let off = [("ALLOCATION__METRICS__LISTEN", "")];
    let process = system.start(&["run", "--only", "worker,relay,archive,notifier"], &off);
    wait_until("the process runs", SOON, async || process.log().contains("running")).await;
    assert_eq!(metrics_address(&process), None);
    assert_eq!(process.listening_sockets(), 0);
    let (observed, _) = system.observed("archive", &[]).await;
    assert_eq!(observed.listening_sockets(), 1);
    system.close_after([process, observed]).await;
}

/// The process waits for a database that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_before_the_database_is_available() {
    let system = TestSystem::new("metrics_are_served_before_the_database_is_available").await;
    let environment = [ANY_PORT, ("DATABASE_URL", "postgres://postgres@127.0.0.1:1/none")];
    let process = system.start(&["run", "--only", "worker"], &environment);
    let metrics = Metrics::of(&process).await;
    metrics.wait_for(r#"server_unavailable{server="database"}"#, Some(1.0)).await;
    assert_eq!(metrics.scrape().await.get(r#"server_unavailable{server="broker"}"#), Some(0.0));
    system.close_after([process]).await;
}

/// Only `allocation run` has a listener: any other command would take the port from it.
#[tokio::test(flavor = "multi_thread")]
async fn other_commands_open_no_port() {
    let system = TestSystem::new("other_commands_open_no_port").await;
    let (process, metrics) = system.observed("archive", &[]).await;
    let listen = metrics.client().address().to_string();
    let status = system.cli_with(&["status"], &[("ALLOCATION__METRICS__LISTEN", listen.as_str())]).await;
    assert!(!status.stderr().contains("metrics"), "{}", status.stderr());
    Client::of(metrics.client().address()).get("/metrics").await.expect_status(200);
    system.close_after([process]).await;
}
