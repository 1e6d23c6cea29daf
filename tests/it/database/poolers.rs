//! Connection poolers: what works behind one, and what is refused.

use crate::harness::{
    Client, PgBouncer, Running, SOON, TestSystem, Workload, allocate, create_batch, wait_for, wait_until,
};

const SESSION_URL: &str = "ALLOCATION__DATABASE__SESSION_URL";
/// A pooler that drops the settings which it does not know, and reports no error.
const DROPS_SETTINGS: &str = "ignore_startup_parameters = extra_float_digits, options";
/// A command that is rejected is dead at once.
const NO_RETRIES: (&str, &str) = ("ALLOCATION__RETRY__MAX_ATTEMPTS", "1");

/// Runs a workload on two processes, of which one is killed, and calls the command line and the API.
async fn everything_works(system: &TestSystem, environment: &[(&str, &str)]) -> Vec<Running> {
    system.expect_redeliveries();
    let cli = async |arguments: &[&str]| system.cli_with(arguments, environment).await;
    cli(&["migrate"]).await.exits(0);
    let environment = [environment, &[NO_RETRIES]].concat();
    let killed = system.worker_with(&environment);
    let (process, client) = system.api("worker,relay,archive,notifier,api", &environment).await;
    let workload = Workload::seeded(11, 1_500);
    workload.create_batches(system).await;
    let (first, second) = workload.commands.split_at(workload.commands.len() / 2);
    system.sender.send_all(first).await;
    let some = i64::try_from(workload.batches.len()).unwrap() + 50;
    wait_until("commands are handled", SOON, async || system.handled().await > some).await;
    killed.kill().await;
    system.sender.send_all(second).await;
    workload.assert_all_handled(system).await;

    failed_messages_work(system, &environment, workload.distinct()).await;
    requests_work(&client).await;
    system.settled(workload.distinct() + 4).await;
    cli(&["orders", "show", "o-1"]).await.exits(0);
    cli(&["view", "rebuild"]).await.exits(0);
    cli(&["outbox", "list"]).await.exits(0);
    cli(&["outbox", "retry", "--all"]).await.exits(0);
    cli(&["status"]).await.exits(0);
    assert!(!process.log().contains("unavailable"), "{}", process.log());
    vec![process]
}

/// A rejected command is dead, is listed, and is handled after it was retried.
async fn failed_messages_work(system: &TestSystem, environment: &[(&str, &str)], handled: usize) {
    let cli = async |arguments: &[&str]| system.cli_with(arguments, environment).await;
    system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    let dead = async || system.count("select count(*) from failed_messages where status = 'dead'").await;
    wait_for("dead letters", SOON, &1, dead).await;
    let listed = cli(&["dead-letters", "list", "--json"]).await.exits(0).json();
    let id = listed[0]["id"].to_string();
    cli(&["dead-letters", "show", &id]).await.exits(0);
    system.sender.send(&create_batch("lamps", "LAMP", 100)).await;
    system.wait_handled(handled + 1).await;
    cli(&["dead-letters", "retry", &id]).await.exits(0);
    system.wait_handled(handled + 2).await;
}

async fn requests_work(client: &Client) {
    for order in ["o-2", "o-3"] {
        let body = allocate(order, "LAMP", 1).body;
        assert_eq!(client.post("/allocate", &body).await.status, 202);
        assert_eq!(client.get(&format!("/allocations/{order}")).await.status, 200);
    }
    assert_eq!(client.get("/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_in_transaction_mode_everything_works_with_a_session_url() {
    let system =
        TestSystem::new("behind_a_pooler_in_transaction_mode_everything_works_with_a_session_url").await;
    // Few sessions for many connections: each serves all processes in turn.
    let pooler = PgBouncer::start(&system.database_url(), "transaction", "default_pool_size = 4").await;
    let Some(pooler) = pooler else { return system.close().await };
    let server = system.database_url();
    let environment = [("DATABASE_URL", pooler.url()), (SESSION_URL, &server)];
    let processes = everything_works(&system, &environment).await;
    system.close_after(processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_in_session_mode_everything_works_with_a_session_url() {
    let system = TestSystem::new("behind_a_pooler_in_session_mode_everything_works_with_a_session_url").await;
    let pooler = PgBouncer::start(&system.database_url(), "session", "default_pool_size = 60").await;
    let Some(pooler) = pooler else { return system.close().await };
    let environment = [("DATABASE_URL", pooler.url()), (SESSION_URL, pooler.url())];
    let processes = everything_works(&system, &environment).await;
    system.close_after(processes).await;
}

/// Calls that use the database, and start nothing that runs on.
const CALLS: [&[&str]; 5] = [
    &["run", "--only", "worker"],
    &["run", "--only", "relay"],
    &["migrate"],
    &["dead-letters", "list"],
    &["view", "rebuild"],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_without_a_session_url_is_refused_by_name() {
    let system = TestSystem::new("a_pooler_without_a_session_url_is_refused_by_name").await;
    for mode in ["session", "transaction", "statement"] {
        for options in ["", "ignore_startup_parameters = extra_float_digits", DROPS_SETTINGS] {
            let pooler = PgBouncer::start(&system.database_url(), mode, options).await;
            let Some(pooler) = pooler else { return system.close().await };
            for call in CALLS {
                let refused = system.cli_with(call, &[("DATABASE_URL", pooler.url())]).await.exits(1);
                for words in ["database.url", "PgBouncer", "set database.session_url"] {
                    assert!(
                        refused.text().contains(words),
                        "{mode}, {options}, {call:?}: {}",
                        refused.text()
                    );
                }
            }
        }
    }
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_url_that_shares_sessions_is_refused_by_name() {
    let system = TestSystem::new("a_session_url_that_shares_sessions_is_refused_by_name").await;
    for options in ["", "server_round_robin = 1", "default_pool_size = 1"] {
        let pooler = PgBouncer::start(&system.database_url(), "transaction", options).await;
        let Some(pooler) = pooler else { return system.close().await };
        let environment = [("DATABASE_URL", pooler.url()), (SESSION_URL, pooler.url())];
        for call in [["run", "--only", "worker,relay"].as_slice(), &["migrate"]] {
            let refused = system.cli_with(call, &environment).await.exits(1);
            let words = "database.session_url leads to a connection pooler";
            assert!(refused.text().contains(words), "{options}, {call:?}: {}", refused.text());
        }
    }
    system.close().await;
}

/// Sessions that have the settings as those of their role, so that only their number shows the pooler.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_found_even_if_the_role_has_the_settings() {
    let system = TestSystem::new("a_pooler_is_found_even_if_the_role_has_the_settings").await;
    let url = system.url_of_role("").await;
    let role = url::Url::parse(&url).unwrap().username().to_owned();
    system.execute(&format!("alter role {role} set lock_timeout = '2s'")).await;
    let pooler = PgBouncer::start(&url, "transaction", DROPS_SETTINGS).await;
    let Some(pooler) = pooler else { return system.close().await };
    for role in ["worker", "relay"] {
        let call = ["run", "--only", role];
        let refused = system.cli_with(&call, &[("DATABASE_URL", pooler.url())]).await.exits(1).text();
        assert!(refused.contains("to several connections in turn"), "{refused}");
    }
    system.close().await;
}
