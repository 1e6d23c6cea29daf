//! The roles and privileges of `deploy/sql`: enough for the program, and no more.

use allocation::adapters::postgres::{Migration, migrate};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use url::Url;

use crate::harness::{
    Command, DRAINS_WITHIN, Database, GRANTS, NAMESPACE, ROLES, TestSystem, allocate, change_batch_quantity,
    create_batch, deallocate, wait_for,
};

/// What the role of the program must not do: rewrite what happened, or change the schema.
const FORBIDDEN_TO_RUNTIME: [&str; 12] = [
    "update failed_actions set who = 'another'",
    "delete from failed_actions",
    "insert into failed_actions (failed_message_id, who, what, database_user) values (1, 'a', 'retry', 'another')",
    "insert into failed_actions (failed_message_id, who, what, at) values (1, 'a', 'retry', now())",
    "update failed_attempts set error = ''",
    "delete from failed_attempts",
    "update _sqlx_migrations set success = true",
    "update installation set namespace = 'another'",
    "delete from products",
    "truncate inbox",
    "create table extra (id integer)",
    "create temporary table extra (id integer)",
];
const FORBIDDEN_TO_READER: [&str; 4] = [
    "update products set version = version",
    "insert into inbox (queue, message_id, fingerprint) values ('orders', 'm', '')",
    "select from relay_state for update",
    "create table extra (id integer)",
];
const TABLES: &str = "select count(*) from pg_class join pg_roles on pg_roles.oid = relowner
     where relnamespace = 'public'::regnamespace and relkind = 'r' and rolname";

async fn login(db: &Database, role: &str) -> Result<PgConnection, sqlx::Error> {
    let mut url = Url::parse(&db.url()).unwrap();
    url.set_username(role).unwrap();
    PgConnection::connect(url.as_str()).await
}

async fn assert_denied(connection: &mut PgConnection, statements: &[&str]) {
    for statement in statements {
        let error = sqlx::raw_sql(statement).execute(&mut *connection).await.expect_err(statement);
        let code = error.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn each_role_has_its_privileges_and_no_more() {
    let db = Database::empty("UTF8").await;
    db.execute(ROLES).await;
    let owner =
        db.create_role("grant allocation_owner to ROLE; alter role ROLE set role allocation_owner").await;
    let runtime = db.create_role("grant allocation_runtime to ROLE").await;
    let reader = db.create_role("grant allocation_reader to ROLE").await;
    let other = db.create_role("").await;
    let migration = Migration { namespace: NAMESPACE, rename: false, on_delay: &|_| () };
    for _ in 0..2 {
        migrate(&db.config_as(&owner), &migration).await.unwrap();
        let mut session = login(&db, &owner).await.unwrap();
        sqlx::raw_sql(GRANTS).execute(&mut session).await.unwrap();
    }
    assert_eq!(db.count(&format!("{TABLES} <> 'allocation_owner'")).await, 0);
    assert!(db.count(&format!("{TABLES} = 'allocation_owner'")).await > 10);
    db.failed("m-1", "").await;
    assert_denied(&mut login(&db, &runtime).await.unwrap(), &FORBIDDEN_TO_RUNTIME).await;
    let mut reader = login(&db, &reader).await.unwrap();
    assert_denied(&mut reader, &FORBIDDEN_TO_READER).await;
    sqlx::raw_sql("select * from failed_messages").execute(&mut reader).await.unwrap();
    let refused = login(&db, &other).await.expect_err("the role may not connect");
    assert!(refused.to_string().contains("permission denied for database"), "{refused}");
}

/// A system whose program logs in with the runtime role.
async fn with_runtime_role(name: &str) -> (TestSystem, String) {
    let system = TestSystem::new(name).await;
    for statements in [ROLES, GRANTS] {
        system.execute(statements).await;
    }
    let url = system.url_with_grants("in role allocation_runtime", "").await;
    (system, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_works_with_the_runtime_role() {
    let (system, url) = with_runtime_role("the_program_works_with_the_runtime_role").await;
    let role = Url::parse(&url).unwrap().username().to_owned();
    let environment = [("DATABASE_URL", url.as_str()), ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")];
    let worker = system.worker_with(&environment);
    let cli = async |arguments: &[&str]| system.cli_with(arguments, &environment).await;
    let commands = [
        create_batch("b-1", "LAMP", 10),
        allocate("o-1", "LAMP", 6),
        allocate("o-2", "LAMP", 6),
        change_batch_quantity("b-1", 5),
        change_batch_quantity("b-1", 20),
        deallocate("o-1", "LAMP"),
    ];
    for (number, command) in commands.iter().enumerate() {
        system.sender.send(command).await;
        system.wait_handled(number + 1).await;
    }
    let invalid = |id: &str| Command { kind: "allocate", message_id: id.into(), body: json!([]) };
    system.sender.send_all(&[invalid("m-1"), invalid("m-2")]).await;
    let dead = async || system.count("select count(*) from failed_messages where status = 'dead'").await;
    wait_for("two messages are dead", DRAINS_WITHIN, &2, dead).await;
    let list = cli(&["dead-letters", "list", "--json"]).await.exits(0).json();
    let ids: Vec<String> = list.as_array().unwrap().iter().map(|row| row["id"].to_string()).collect();
    cli(&["dead-letters", "discard", &ids[0], "--why", "a test"]).await.exits(0);
    cli(&["dead-letters", "restore", &ids[0]]).await.exits(0);
    let body = system.file("body.json", br#"{"orderid":"o-3","sku":"LAMP","qty":1}"#);
    cli(&["dead-letters", "edit", &ids[1], "--body", body.to_str().unwrap(), "--why", "corrected"])
        .await
        .exits(0);
    system.wait_handled(7).await;
    for arguments in [["view", "rebuild"].as_slice(), &["orders", "show", "o-2"], &["dead-letters", "groups"]]
    {
        cli(arguments).await.exits(0);
    }
    let unpublished = async || system.count("select count(*) from outbox").await;
    wait_for("all events are published", DRAINS_WITHIN, &0, unpublished).await;
    let status = cli(&["status", "--json"]).await.json();
    assert_eq!(status["relay"]["role"], role.as_str(), "{status}");
    // The environment says who acted, and the server which role was logged in.
    let shown =
        system.cli_with(&["dead-letters", "show", &ids[0], "--json"], &environment).await.exits(0).json();
    let actions = shown["actions"].as_array().unwrap();
    assert!(actions.iter().all(|action| action["database_user"] == role.as_str()), "{shown}");
    let local = |address: &Value| address == "127.0.0.1" || address == "::1" || address.is_null();
    assert!(actions.iter().all(|action| local(&action["address"])), "{shown}");
    let text = cli(&["dead-letters", "show", &ids[0]]).await.exits(0).text();
    assert!(text.contains(&format!("(database user {role}")), "{text}");
    system.expect_dead(1);
    system.close_after([worker]).await;
}
