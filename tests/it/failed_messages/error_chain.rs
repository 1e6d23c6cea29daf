//! The errors that operators see contain every cause, and no value of a row.

use serde_json::{Value, json};

use crate::harness::{TestSystem, create_batch};

use super::{ONE_ATTEMPT, dead, dead_letters};

/// Creates a batch after `statements` have made its insertion fail, and returns its only attempt as `show` prints it.
async fn failed_attempt(name: &str, statements: &'static str) -> Value {
    let system = TestSystem::new(name).await;
    system.expect_dead(1);
    sqlx::raw_sql(statements).execute(&system.pool).await.unwrap();
    let worker = system.worker_with(ONE_ATTEMPT);
    system.sender.send(&create_batch("b-1", "BODY-VALUE", 10)).await;
    let id = dead(&system, 1).await.remove(0);

    let mut shown = dead_letters(&system, &["show", &id]).await.exits(0).json();
    assert_eq!(shown["error"], shown["history"][0]["error"]);
    let listed = dead_letters(&system, &["list"]).await.exits(0).json();
    assert_eq!(listed[0]["error"], shown["error"]);
    let log = worker.log();
    assert!(log.contains(&format!("error={}", shown["error"])), "{log}");
    system.close_after([worker]).await;
    shown["history"][0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_error_is_shown_with_every_cause() {
    let attempt = failed_attempt(
        "a_database_error_is_shown_with_every_cause",
        "create function refuse() returns trigger language plpgsql as $$
         begin raise exception 'the warehouse is closed' using errcode = 'P0001', detail = new::text; end $$;
         create trigger refuse before insert on batches for each row execute function refuse()",
    )
    .await;
    assert_eq!(attempt["error"], "the store failed: the warehouse is closed (SQLSTATE P0001)");
    assert_eq!(attempt["chain"], json!(["the store failed", "the warehouse is closed (SQLSTATE P0001)"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_violation_is_shown_without_the_value() {
    let attempt = failed_attempt(
        "a_unique_violation_is_shown_without_the_value",
        "create table labels (sku text constraint one_label unique);
         insert into labels values ('BODY-VALUE');
         create function label() returns trigger language plpgsql security definer as $$
         begin insert into labels values (new.sku); return new; end $$;
         create trigger label before insert on batches for each row execute function label()",
    )
    .await;
    let violation = "duplicate key value violates unique constraint \"one_label\" (SQLSTATE 23505)";
    assert_eq!(attempt["error"], format!("the store failed: row exists already: {violation}"));
    assert_eq!(attempt["chain"], json!(["row exists already", violation]));
}
