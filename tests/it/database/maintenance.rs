//! `allocation migrate` on servers with few rights.

use crate::harness::{PrivatePostgres, TestSystem};

/// The cluster has another encoding than UTF8, as one that was created without a locale.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_needs_no_other_database_than_its_own_and_creates_it_in_utf8() {
    let system = TestSystem::new("migrate_needs_no_other_database_than_its_own_and_creates_it_in_utf8").await;
    let server = PrivatePostgres::start("SQL_ASCII").await;
    server
        .execute(&[
            "create role owner login",
            "create role creator login createdb",
            "create database shop owner owner template template0 encoding 'UTF8'",
            "revoke connect on database postgres from public",
        ])
        .await;
    // The database exists, and its owner may not connect to `postgres`.
    system.cli_on(&server.url("owner", "shop"), &["migrate"]).await.exits(0);
    // It does not exist, and is created from another database than `postgres`.
    system.cli_on(&server.url("creator", "new-shop"), &["migrate"]).await.exits(0);
    system.cli_on(&server.url("creator", "new-shop"), &["migrate"]).await.exits(0);
    let encoding: String = sqlx::query_scalar("show server_encoding")
        .fetch_one(&mut server.connect("new-shop").await)
        .await
        .unwrap();
    assert_eq!(encoding, "UTF8");
    // The server's own word, when it may not be created.
    let refused = system.cli_on(&server.url("owner", "third-shop"), &["migrate"]).await.exits(1).text();
    assert!(refused.contains("permission denied to create database"), "{refused}");
    system.close().await;
}
