//! Roles without privileges on the tables of the program: they neither stop its work nor act with its privileges.

use std::{sync::Arc, time::Duration};

use allocation::{
    adapters::postgres::{Migration, PgStore, migrate},
    domain::{BodyHash, MessageKey},
    ports::{
        failed_messages::FailedMessageFilter,
        queue::QueueName,
        store::{ChangeSet, Store as _},
    },
    views::Views,
};
use sqlx::{Connection as _, PgConnection};

use crate::harness::{
    Database, NAMESPACE, SOON, TestSystem, allocate, as_tested_role, create_batch, wait_for, wait_until,
};

/// Objects with the names that the program uses, in a schema that the search path of a role begins with unless it is set.
const OTHER_SCHEMA: &str = "create schema ROLE; grant usage on schema ROLE to public;
    create table ROLE.inbox (like public.inbox including all);
    create table ROLE.products (like public.products including all);
    create function ROLE.strpos(text, text) returns integer language sql as 'select 1/0';
    grant all on all tables in schema ROLE to public";

/// Functions that fit calls without a schema better than those of the server, whose parameters have no certain type.
const BETTER_FITTING: &str = "create function public.concat(text, text, text) returns text language sql as 'select (1/0)::text';
    create function public.concat_ws(text, text, text, text) returns text language sql as 'select (1/0)::text';
    create function public.unnest(text[]) returns setof text language sql as 'select (1/0)::text';
    create function public.unnest(bigint[]) returns setof bigint language sql as 'select 1/0';
    create function public.unnest(integer[]) returns setof integer language sql as 'select 1/0'";

async fn commit_a_message(store: &PgStore) {
    let key = MessageKey { message_id: "m-1".into(), kind: "allocate", body_hash: BodyHash([1; 16]) };
    let mut tx = store.begin(QueueName::Orders).await.unwrap();
    tx.check_inbox(&[key]).await.unwrap();
    tx.commit(ChangeSet::default()).await.unwrap();
}

#[tokio::test]
async fn a_schema_with_the_name_of_the_role_is_not_used() {
    let db = Database::new().await;
    let role = db.create_role("").await;
    db.execute(&OTHER_SCHEMA.replace("ROLE", &role)).await;
    let config = db.config_as(&role);
    commit_a_message(&PgStore::new(config.pool(), &config, Arc::default())).await;
    assert_eq!(db.count("select count(*) from public.inbox").await, 1);
    assert_eq!(db.count(&format!("select count(*) from {role}.inbox")).await, 0);
    let views = Views::new(config.pool(), NAMESPACE.into(), Duration::from_secs(10));
    let filter = FailedMessageFilter { grep: Some("x".into()), ..FailedMessageFilter::default() };
    views.failed_messages(&filter, 10, None).await.unwrap();
    db.execute(&format!("drop schema {role} cascade")).await;
}

#[tokio::test]
async fn functions_that_fit_a_call_better_than_those_of_the_server_are_not_called() {
    let db = Database::new().await;
    db.execute(BETTER_FITTING).await;
    db.failed("m-1", "").await;
    let config = db.config();
    commit_a_message(&PgStore::new(config.pool(), &config, Arc::default())).await;
    let views = Views::new(config.pool(), NAMESPACE.into(), Duration::from_secs(10));
    let listed = views.failed_messages(&FailedMessageFilter::default(), 10, None).await.unwrap();
    assert_eq!(listed[0].queue, "it.orders");
    assert_eq!(views.dead_letter_groups(10).await.unwrap().0[0].queue, "it.orders");
}

/// Functions of the server whose parameters have no certain type: another one with such a name may fit a call better.
const UNCERTAIN: [&str; 20] = [
    "array_agg",
    "array_append",
    "array_length",
    "array_position",
    "array_remove",
    "array_to_string",
    "cardinality",
    "concat",
    "concat_ws",
    "count",
    "format",
    "json_agg",
    "json_build_object",
    "jsonb_agg",
    "jsonb_build_object",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "unnest",
    "width_bucket",
];

/// `count(*)` has no parameter, and `unnest` with several ones is a form of the language.
fn is_certain(name: &str, arguments: &str) -> bool {
    let mut depth = 0;
    let end = arguments.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let arguments = &arguments[1..end.expect("the parentheses are closed")];
    (name == "count" && arguments == "*") || (name == "unnest" && arguments.contains("], "))
}

#[test]
fn statements_name_the_schema_of_functions_whose_parameters_have_no_certain_type() {
    let queries = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap();
    let mut found = Vec::new();
    for file in queries {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        let query = json["query"].as_str().unwrap();
        for name in UNCERTAIN {
            for (at, _) in query.match_indices(&format!("{name}(")) {
                let before = query[..at].chars().next_back().unwrap_or(' ');
                let is_name = before != '.' && before != '_' && !before.is_alphanumeric();
                if is_name && !is_certain(name, &query[at + name.len()..]) {
                    found.push(format!("{name} in {query}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "write pg_catalog.NAME, or || for concat:\n{}", found.join("\n"));
}

#[tokio::test]
async fn migrate_takes_the_privilege_to_create_objects_in_its_schema_from_public() {
    let db = Database::new().await;
    let role = db.create_role("").await;
    db.execute("grant create on schema public to public").await;
    let may_create = format!("select has_schema_privilege('{role}', 'public', 'create')::integer::bigint");
    assert_eq!(db.count(&may_create).await, 1);
    let migration = Migration { namespace: NAMESPACE, rename: false, on_delay: &|_| () };
    migrate(&db.config(), &migration).await.unwrap();
    assert_eq!(db.count(&may_create).await, 0);
}

/// A role that may only connect, which every role may by default. It holds the advisory locks of relays and
/// migrations of earlier versions, and sends notifications without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_privileges_delays_nothing() {
    let system = TestSystem::new("a_role_without_privileges_delays_nothing").await;
    let role = format!("other_{}", system.database_url().rsplit('_').next().unwrap());
    system.execute(&format!("create role {role} login")).await;
    let mut url = url::Url::parse(&system.database_url()).unwrap();
    url.set_username(&role).unwrap();
    let mut other = PgConnection::connect(url.as_str()).await.unwrap();
    sqlx::raw_sql(
        "select pg_try_advisory_lock(x'72656c6179'::bigint);
         select pg_try_advisory_lock(x'3d32ad9e'::bigint * n) from generate_series(1, 1000) n;
         create temporary table relay_state (only_row boolean); create temporary table outbox (id bigint)",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let flood = tokio::spawn(async move {
        loop {
            let notify = "select pg_notify(channel, n::text) from generate_series(1, 200) n,
                              unnest(array['outbox', 'allocation', 'allocation_outbox']) channel";
            sqlx::query(notify).execute(&mut other).await.unwrap();
        }
    });
    let worker = system.worker();
    system.sender.send_all(&[create_batch("b-1", "LAMP", 10), allocate("o-1", "LAMP", 1)]).await;
    system.wait_handled(2).await;
    let unpublished = async || system.count("select count(*) from outbox").await;
    wait_for("the event is published", SOON, &0, unpublished).await;
    system.cli(&["migrate"]).await.exits(0);
    let status = system.cli(&["status", "--json"]).await.exits(0).json();
    let leader = &status["relay"];
    let program = url::Url::parse(&as_tested_role(&system.database_url(), &[])).unwrap();
    assert_eq!(leader["role"], program.username(), "{status}");
    assert!(leader["application"].as_str().unwrap().starts_with("allocation relay "), "{status}");
    assert!(leader["pid"].as_i64().unwrap() > 0 && leader["since"].as_str().is_some(), "{status}");
    let text = system.cli(&["status"]).await.exits(0).text();
    assert!(
        text.contains("relay      session ") && text.contains(&format!(" of {}, ", program.username())),
        "{text}"
    );
    worker.terminate().await;
    let none = async || system.cli(&["status"]).await.text().contains("none is the leader");
    wait_until("no relay is the leader", SOON, none).await;
    flood.abort();
    let _ = flood.await;
    drop_role(&system, &role).await;
    system.close().await;
}

/// Ends the sessions of the role and drops it.
async fn drop_role(system: &TestSystem, role: &str) {
    let sessions = format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'");
    let ended = async || {
        sqlx::raw_sql(&sessions).execute(&system.pool).await.unwrap();
        let left = sqlx::query_scalar("select count(*) from pg_stat_activity where usename = $1").bind(role);
        let left: i64 = left.fetch_one(&system.pool).await.unwrap();
        left == 0
    };
    wait_until("the sessions of the role have ended", SOON, ended).await;
    system.execute(&format!("drop owned by {role}; drop role {role}")).await;
}
