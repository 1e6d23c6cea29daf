//! `doctor`: planted faults are found, and the printed commands repair them.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use lapin::options::QueueDeleteOptions;
use serde_json::Value;

use crate::harness::{DRAINS_WITHIN, GRANTS, ROLES, Running, TestSystem, wait_until};

const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/views/inspection/schema_objects.txt");
const HEALTHY: &str = "ok";

/// The results of all checks, by name.
async fn results(system: &TestSystem, environment: &[(&str, &str)]) -> BTreeMap<String, String> {
    let output = system.cli_with(&["--json", "doctor"], environment).await;
    let checks = output.json();
    let checks = checks.as_array().expect("there is a list of checks");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let results: BTreeMap<_, _> =
        checks.iter().map(|check| (text(&check["check"]), text(&check["status"]))).collect();
    let has_failed = results.values().any(|status| status == "failed");
    output.exits(i32::from(has_failed));
    results
}

/// The checks that found something. In the tests the role is a superuser, and bindings are never known.
async fn wrong(system: &TestSystem, environment: &[(&str, &str)]) -> Vec<(String, String)> {
    let expected = ["database.role", "broker.bindings", "metrics"];
    let results = results(system, environment).await.into_iter();
    results.filter(|(check, status)| status != HEALTHY && !expected.contains(&check.as_str())).collect()
}

fn found(checks: &[(&str, &str)]) -> Vec<(String, String)> {
    checks.iter().map(|(check, status)| ((*check).to_owned(), (*status).to_owned())).collect()
}

/// Runs the script that `--fix` prints, as an operator would.
async fn repair(system: &TestSystem, environment: &[(&str, &str)]) {
    let arguments = ["doctor", "--fix"];
    let script = system.cli_with(&arguments, environment).await.stdout().to_owned();
    let program = Path::new(env!("CARGO_BIN_EXE_allocation")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-c", &script]).env("PATH", path).env("OWNER_URL", system.database_url());
    shell.envs(system.environment()).envs(environment.iter().copied()).stdout(Stdio::null());
    assert!(shell.status().await.unwrap().success(), "{script}");
}

/// All roles but the api, healthy.
async fn healthy(name: &str) -> (TestSystem, Running) {
    let system = TestSystem::new(name).await;
    let process = system.start(&["run", "--only", "worker,relay,archive,notifier"], &[]);
    let is_healthy = async || wrong(&system, &[]).await.is_empty();
    wait_until("nothing is wrong", DRAINS_WITHIN, is_healthy).await;
    (system, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_schema_objects_is_that_of_the_migrations() {
    let system = TestSystem::new("the_list_of_schema_objects_is_that_of_the_migrations").await;
    let objects = system.views().schema_objects().await.unwrap().join("\n") + "\n";
    system.close().await;
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(OBJECTS, &objects).unwrap();
    }
    let hint = "run: UPDATE_DOCUMENTS=1 cargo nextest run -E 'test(/^doctor/)'";
    assert_eq!(std::fs::read_to_string(OBJECTS).unwrap(), objects, "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_is_found_and_the_printed_commands_repair_it() {
    let (system, process) = healthy("a_changed_schema_is_found_and_the_printed_commands_repair_it").await;
    for fault in [
        "drop index batches_in_order",
        "drop index failed_messages_message",
        "alter table batches drop constraint never_overallocated",
        "alter table order_lines drop constraint order_lines_pkey",
        "drop trigger count_updated on failed_messages",
    ] {
        system.execute(fault).await;
        assert_eq!(wrong(&system, &[]).await, found(&[("database.drift", "failed")]), "{fault}");
        repair(&system, &[]).await;
        assert_eq!(wrong(&system, &[]).await, [], "{fault}");
    }
    system.execute("create index extra on batches (ordered)").await;
    assert_eq!(wrong(&system, &[]).await, found(&[("database.drift", "warning")]));
    system.execute("drop index extra; alter table batches alter column eta type timestamp").await;
    assert!(wrong(&system, &[]).await.contains(&("database.drift".into(), "failed".into())));
    let text = system.cli(&["doctor", "--only", "database.drift"]).await.exits(1).text();
    assert!(text.contains("column batches.eta is "), "{text}");
    system.cli(&["doctor", "--only", "nothing"]).await.exits(2).assert_error("no check is named");
    process.kill().await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_additional_privileges_are_found_and_repaired() {
    let (system, process) = healthy("missing_and_additional_privileges_are_found_and_repaired").await;
    system.execute(ROLES).await;
    system.execute(GRANTS).await;
    let url = system.url_with_grants("in role allocation_runtime", "").await;
    let environment = [("DATABASE_URL", url.as_str())];
    let hidden = [("database.locks", "not known"), ("database.transactions", "not known")];
    assert_eq!(wrong(&system, &environment).await, found(&hidden), "it does not see the other sessions");
    let role = url::Url::parse(&url).unwrap().username().to_owned();
    system.execute(&format!("grant pg_read_all_stats to {role}")).await;
    assert_eq!(wrong(&system, &environment).await, []);
    assert_eq!(results(&system, &environment).await["database.role"], HEALTHY);
    system.execute("revoke insert on inbox from allocation_runtime").await;
    assert_eq!(wrong(&system, &environment).await, found(&[("database.rights", "failed")]));
    repair(&system, &environment).await;
    assert_eq!(wrong(&system, &environment).await, []);
    system.execute(&format!("grant delete, truncate on failed_actions to {role}")).await;
    assert_eq!(wrong(&system, &environment).await, found(&[("database.rights", "warning")]));
    repair(&system, &environment).await;
    assert_eq!(wrong(&system, &environment).await, []);
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_broker_are_found_and_repaired() {
    let (system, process) = healthy("faults_of_the_broker_are_found_and_repaired").await;
    let queue = system.named("stock.dlq");
    system.channel().queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    let broken = wrong(&system, &[]).await;
    assert_eq!(broken[0], ("broker.rights".into(), "not known".into()), "{broken:?}");
    assert_eq!(broken[1], ("broker.topology".into(), "failed".into()), "{broken:?}");
    repair(&system, &[]).await;
    let is_healthy = async || wrong(&system, &[]).await.is_empty();
    wait_until("nothing is wrong", DRAINS_WITHIN, is_healthy).await;
    let other = [("ALLOCATION__QUEUES__SINGLE_ACTIVE_CONSUMER", "true")];
    assert_eq!(wrong(&system, &other).await, found(&[("broker.topology", "failed")]));
    let away = [("AMQP_URL", "amqp://127.0.0.1:1")];
    let broken = wrong(&system, &away).await;
    assert_eq!(broken[1], ("broker.connection".into(), "failed".into()), "{broken:?}");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_who_is_missing_is_found() {
    let (system, process) = healthy("what_waits_and_who_is_missing_is_found").await;
    system
        .execute(
            "insert into outbox (name, sku, sequence, body, causation_id, correlation_id, refused, refused_at)
                 values ('allocated', 'VASE', 1, '{}', 'm', 'm', 'access refused', now());
             insert into inbox (queue, message_id, fingerprint, handled_at) values ('orders', 'm', '', now() - interval '3 hours')",
        )
        .await;
    let expected = found(&[("outbox.events", "failed"), ("retention.inbox", "failed")]);
    // The process keeps the row for longer than this command expects.
    let retention = [("ALLOCATION__RETENTION__INBOX", "1h")];
    assert_eq!(wrong(&system, &retention).await, expected);
    system.execute("delete from outbox; delete from inbox").await;
    let away = [("DATABASE_URL", "postgres://unknown@127.0.0.1:1/x")];
    let broken = wrong(&system, &away).await;
    assert!(broken.contains(&("database.schema".into(), "failed".into())), "{broken:?}");
    assert!(broken.contains(&("database.rights".into(), "not known".into())), "{broken:?}");
    let contradiction = [("ALLOCATION__RETRY__INITIAL_INTERVAL", "1d")];
    assert_eq!(wrong(&system, &contradiction).await, found(&[("settings.contradictions", "warning")]));
    process.terminate().await;
    let expected = found(&[("processes.leader", "failed"), ("processes.roles", "failed")]);
    assert_eq!(wrong(&system, &[]).await, expected);
    system.close().await;
}
