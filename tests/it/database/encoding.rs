//! Texts that the database cannot store.

use std::{fs, sync::Arc};

use allocation::{
    adapters::postgres::PgStore,
    domain::{Reason, RetryDecision},
    ports::{observer::NoObserver, queue::QueueName, store::Store},
    service::{
        archive::Archive,
        batch_handler::BatchHandler,
        outcome::{AttemptRecord, CommandOutcome},
        received::ReceivedMessage,
    },
};
use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::harness::{Database, HandleAll as _, TestSystem, bus, command, policy};

#[tokio::test(flavor = "multi_thread")]
async fn migrate_run_and_status_refuse_another_encoding_than_utf8() {
    let system = TestSystem::new("migrate_run_and_status_refuse_another_encoding_than_utf8").await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let other = Database::empty(encoding).await;
        for command in [["migrate"].as_slice(), &["run"], &["run", "--only", "relay"], &["status"]] {
            let refused = system.cli_on(&other.url(), command).await.exits(1).text();
            assert!(refused.contains(encoding) && refused.contains("UTF8"), "{refused}");
        }
    }
    system.close().await;
}

/// A database whose encoding lacks characters, as it may be after a dump was restored in the wrong place.
async fn in_latin1() -> Database {
    let db = Database::empty("LATIN1").await;
    let mut migrations: Vec<_> =
        fs::read_dir("migrations").unwrap().map(|file| file.unwrap().path()).collect();
    migrations.sort();
    for migration in migrations {
        db.execute(&fs::read_to_string(migration).unwrap()).await;
    }
    db
}

fn line(message_id: &str, orderid: &str) -> ReceivedMessage {
    command(message_id, "allocate", &json!({ "orderid": orderid, "sku": "LAMP", "qty": 1 }))
}

fn is_invalid(outcome: &CommandOutcome) -> bool {
    matches!(
        outcome,
        CommandOutcome::Recorded(
            _,
            AttemptRecord { decision: RetryDecision::Dead(Reason::InvalidMessage), .. }
        )
    )
}

async fn assert_kept(db: &Database, message_id: &str, body: &str) {
    let body = Base64Display::new(body.as_bytes(), &STANDARD);
    let kept = format!(
        "select count(*) from failed_messages where message_id = '{message_id}' and reason = 'invalid_message'
             and body = decode('{body}', 'base64')"
    );
    assert_eq!(db.count(&kept).await, 1, "{message_id}");
}

#[tokio::test]
async fn a_value_that_the_database_cannot_store_is_a_dead_letter_and_its_neighbours_are_handled() {
    let db = in_latin1().await;
    let bus = bus(db.store());
    let batch = command("b", "create_batch", &json!({ "ref": "b-1", "sku": "LAMP", "qty": 10 }));
    bus.handle_all(QueueName::Stock, &mut [batch]).await.unwrap();
    let mut redelivered = line("日本-2", "o-2");
    redelivered.redelivered = true;
    let mut messages = [line("m-0", "o-0"), line("m-1", "日本"), redelivered, line("m-3", "o-3")];
    let outcomes = bus.handle_all(QueueName::Orders, &mut messages).await.unwrap();
    assert!(matches!(outcomes[0], CommandOutcome::Handled), "{outcomes:?}");
    assert!(is_invalid(&outcomes[1]) && is_invalid(&outcomes[2]), "{outcomes:?}");
    assert!(matches!(outcomes[3], CommandOutcome::Handled), "{outcomes:?}");
    assert_kept(&db, "m-1", r#"{"orderid":"日本","qty":1,"sku":"LAMP"}"#).await;
    assert_kept(&db, r"\u65e5\u672c-2", r#"{"orderid":"o-2","qty":1,"sku":"LAMP"}"#).await;
}

#[tokio::test]
async fn a_dead_letter_of_the_broker_that_cannot_be_stored_as_it_is_is_recorded() {
    let db = in_latin1().await;
    let store: Arc<dyn Store> = Arc::new(PgStore::new(db.config().pool(), &db.config(), Arc::default()));
    let archive = Archive::new(store, policy(), Arc::new(NoObserver));
    let outcomes = archive.handle_all(QueueName::Orders, &mut [line("日本", "o-1")]).await.unwrap();
    assert!(is_invalid(&outcomes[0]), "{outcomes:?}");
    assert_kept(&db, r"\u65e5\u672c", r#"{"orderid":"o-1","qty":1,"sku":"LAMP"}"#).await;
    archive.probe().await.unwrap();
}
