//! A migration that has to wait for a lock.

use std::time::Duration;

use crate::harness::{SOON, TestSystem, allocate, create_batch, wait_until};
use sqlx::{Connection as _, PgConnection};

/// A session of another program.
async fn session(system: &TestSystem, name: &str) -> PgConnection {
    let url = format!("{}?application_name={name}", system.database_url());
    PgConnection::connect(&url).await.unwrap()
}

async fn execute(session: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(statements).execute(session).await.unwrap();
}

/// Puts the schema back to before a migration that locks `order_lines`.
const UNDO: &str = "alter table order_lines
         add constraint order_lines_sku_fkey foreign key (sku) references products,
         add constraint order_lines_batchref_fkey foreign key (batchref) references batches;
     delete from _sqlx_migrations where version = 5";

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_gives_way_to_the_work_and_names_the_session_that_blocks_it() {
    let system =
        TestSystem::new("a_migration_gives_way_to_the_work_and_names_the_session_that_blocks_it").await;
    system.execute(UNDO).await;
    let worker = system.worker();
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;

    let mut report = session(&system, "monthly-report").await;
    execute(&mut report, "begin; select count(*) from order_lines").await;
    let migrate = system.start(&["migrate"], &[]);
    let blocked = async || migrate.log().matches("monthly-report").count() >= 2;
    let sent: Vec<_> = (0..50).map(|i| allocate(&format!("o-{i}"), "LAMP", 1)).collect();
    for part in sent.chunks(10) {
        system.sender.send_all(part).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    wait_until("the migration was blocked twice", SOON, blocked).await;
    system.wait_handled(51).await;
    let log = migrate.log();
    for part in ["pid ", "idle in transaction", "since 20", "trying again"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    execute(&mut report, "commit").await;
    let migrated = "select count(*) from _sqlx_migrations where version = 5";
    wait_until("the schema is migrated", SOON, async || system.count(migrated).await == 1).await;
    assert_eq!(system.count("select count(*) from failed_attempts").await, 0);
    system.close_after([worker]).await;
}

/// The lock that two migrations take in turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_another_one_names_it() {
    let system = TestSystem::new("a_migration_that_waits_for_another_one_names_it").await;
    let mut report = session(&system, "monthly-report").await;
    system.execute(UNDO).await;
    execute(&mut report, "begin; select count(*) from order_lines").await;
    // Another version of the program may wait for a table for a long time.
    let mut other = session(&system, "other-migration").await;
    execute(&mut other, "begin; lock table _sqlx_migrations in share update exclusive mode").await;
    let migrate = system.start(&["migrate"], &[]);
    let named = async || migrate.log().contains("other-migration");
    wait_until("the other migration is named", SOON, named).await;
    execute(&mut other, "commit").await;
    execute(&mut report, "commit").await;
    let migrated = "select count(*) from _sqlx_migrations where version = 5";
    wait_until("the schema is migrated", SOON, async || system.count(migrated).await == 1).await;
    system.close().await;
}
