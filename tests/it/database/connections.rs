//! Connections that cannot be had: the error says why.

use std::time::Duration;

use allocation::{
    adapters::postgres::PgStore,
    pg::PgConfig,
    ports::{error::error_text, queue::QueueName, store::Store as _},
};

use tokio::{net::TcpListener, time::timeout};

use crate::harness::{Database, SOON, TestSystem, create_batch, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_limit_of_the_server_is_reported_in_its_own_words() {
    let system = TestSystem::new("a_connection_limit_of_the_server_is_reported_in_its_own_words").await;
    let url = system.url_of_role("connection limit 0").await;
    let words = "too many connections for role";
    for command in [["status"].as_slice(), &["dead-letters", "list"], &["migrate"]] {
        let refused = system.cli_on(&url, command).await.exits(1).text();
        assert!(refused.contains(words) && !refused.contains("timed out"), "{command:?}: {refused}");
    }
    let worker = system.worker_with(&[("DATABASE_URL", &url)]);
    let reported = async || worker.log().contains(words) && worker.log().contains("53300");
    wait_until("the log says why", SOON, reported).await;
    let role = url::Url::parse(&url).unwrap().username().to_owned();
    system.execute(&format!("alter role {role} connection limit 50")).await;
    system.sender.send(&create_batch("b-1", "LAMP", 1)).await;
    system.wait_handled(1).await;
    system.close_after([worker]).await;
}

#[tokio::test]
async fn a_pool_without_a_free_connection_names_its_setting() {
    let db = Database::new().await;
    let config = PgConfig::new(&db.url(), 1, Duration::from_secs(10)).unwrap();
    let store = PgStore::new(config.pool(), &config, std::sync::Arc::default());
    let held = store.begin(QueueName::Orders).await.unwrap();
    let error = error_text(&store.begin(QueueName::Orders).await.map(drop).unwrap_err());
    assert!(error.contains("database.max_connections = 1"), "{error}");
    held.rollback().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_gives_up_on_a_server_that_accepts_connections_and_does_not_reply() {
    let system =
        TestSystem::new("migrate_gives_up_on_a_server_that_accepts_connections_and_does_not_reply").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/silent", silent.local_addr().unwrap());
    let environment = [("DATABASE_URL", url.as_str()), ("ALLOCATION__DATABASE__TIMEOUT", "500ms")];
    let migrate = timeout(SOON, system.cli_with(&["migrate"], &environment)).await;
    migrate.expect("it ends").exits(1).assert_error("did not reply within 500ms (database.timeout)");
    system.close().await;
}
