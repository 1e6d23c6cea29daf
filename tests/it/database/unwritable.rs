//! A database that answers and accepts no writes: an outage until a write succeeds.

use std::time::{Duration, Instant};

use crate::harness::{Client, JSON, Running, SOON, TestSystem, allocate, create_batch, wait_for, wait_until};

/// Messages are returned to the queue after this time, once.
const ENVIRONMENT: [(&str, &str); 1] = [("ALLOCATION__WORKER__REQUEUE_AFTER", "1s")];
/// Long enough for several probes, and for several returns if there were any.
const LONG: Duration = Duration::from_secs(8);

fn count(worker: &Running, text: &str) -> usize {
    worker.log().matches(text).count()
}

/// Processes that log in as a role of their own, and a client of the API.
struct Outage {
    system: TestSystem,
    url: String,
    worker: Running,
    api: Running,
    client: Client,
}

impl Outage {
    /// Some commands are handled, their events are pending, and nothing can be written from now on.
    async fn begin(name: &str, cause: &str) -> Self {
        let system = TestSystem::new(name).await;
        system.expect_redeliveries();
        let url = system.url_of_role("").await;
        let environment = [ENVIRONMENT[0], ("DATABASE_URL", &url)];
        let worker = system.start(&["run", "--only", "worker"], &environment);
        let (api, client) = system.api("api", &environment).await;
        system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
        system.wait_handled(1).await;
        let lines: Vec<_> = (0..10).map(|i| allocate(&format!("before-{i}"), "LAMP", 1)).collect();
        system.sender.send_all(&lines).await;
        system.wait_handled(11).await;
        let outage = Self { system, url, worker, api, client };
        outage.execute(cause).await;
        outage.system.end_sessions().await;
        outage
    }

    /// Runs statements, which call the role ROLE and the database DATABASE.
    async fn execute(&self, statements: &str) {
        let url = url::Url::parse(&self.url).unwrap();
        let name = url.username();
        self.system.execute(&statements.replace("ROLE", name).replace("DATABASE", name)).await;
    }

    async fn post(&self) -> u16 {
        let key = ("Idempotency-Key", "the-same");
        let body = allocate("by-http", "LAMP", 1).body.to_string();
        self.client.request("POST", "/allocate", &[JSON, key], body.as_bytes()).await.status
    }

    async fn wait_for_readiness(&self, status: u16) {
        let ready = async || self.client.get("/health/ready").await.status;
        wait_for("readiness", SOON, &status, ready).await;
    }
}

/// Commands that arrive while nothing can be written wait: they are returned once, nothing is counted, no event is
/// published twice.
async fn outage(name: &str, cause: &str, sqlstate: &str, repair: &str) {
    let outage = Outage::begin(name, cause).await;
    let system = &outage.system;
    assert_eq!(outage.post().await, 503);
    // The events of the first commands are pending, and this relay could publish them and not remove them.
    let relay = system.start(&["run", "--only", "relay"], &[("DATABASE_URL", &outage.url)]);
    let commands: Vec<_> = (0..50).map(|i| allocate(&format!("o-{i}"), "LAMP", 1)).collect();
    system.sender.send_all(&commands).await;
    let processes = [&outage.worker, &relay, &outage.api];
    for process in processes {
        let down = async || {
            // Without requests the API does not notice what follows the end of its sessions.
            assert_eq!(outage.post().await, 503);
            count(process, "unavailable") > 0 && count(process, sqlstate) > 0
        };
        wait_until("the outage is reported with its cause", SOON, down).await;
    }
    outage.wait_for_readiness(503).await;
    tokio::time::sleep(LONG).await;
    let status = system.cli_on(&outage.url, &["status"]).await.exits(1).text();
    assert!(status.contains(sqlstate), "{status}");
    for process in processes {
        assert_eq!(count(process, "available again"), 0, "{}", process.log());
        assert_eq!(count(process, "unavailable, retrying"), 1, "{}", process.log());
    }
    // One for each of the two partitions that had commands, at most.
    assert!(count(&outage.worker, "returning messages") <= 2, "{}", outage.worker.log());
    assert!(system.events_of(0).await.is_empty(), "an event was published that cannot be removed");

    outage.execute(repair).await;
    // The process has no other way to find out than a write of its own.
    outage.wait_for_readiness(200).await;
    assert_eq!(outage.post().await, 202);
    let events = system.settled(62).await;
    for process in processes {
        wait_until("the end is reported", SOON, async || count(process, "available again") == 1).await;
    }
    assert_eq!(system.count("select count(*) from failed_messages").await, 0);
    assert_eq!(events.len(), 61, "an event was published twice");
    let Outage { system, worker, api, .. } = outage;
    system.close_after([worker, api, relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage_until_a_write_succeeds() {
    outage(
        "a_read_only_database_is_an_outage_until_a_write_succeeds",
        "alter database DATABASE set default_transaction_read_only = on",
        "25006",
        // The sessions that were opened meanwhile keep the setting.
        "alter database DATABASE reset default_transaction_read_only;
         select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name ~ '^allocation( relay.*)?$'",
    )
    .await;
}

/// Commands arrive all the time, and are returned to the queue again and again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn two_minutes_of_a_read_only_database_under_load_count_no_attempt() {
    const DURATION: Duration = Duration::from_mins(2);
    const HANDLED_WITHIN: Duration = Duration::from_secs(3);
    let name = "two_minutes_of_a_read_only_database_under_load_count_no_attempt";
    let outage = Outage::begin(name, "alter database DATABASE set default_transaction_read_only = on").await;
    let system = &outage.system;
    let relay = system.start(&["run", "--only", "relay"], &[("DATABASE_URL", &outage.url)]);
    assert_eq!(outage.post().await, 503);
    let (began, mut sent) = (Instant::now(), 11);
    while began.elapsed() < DURATION {
        let commands: Vec<_> = (0..20).map(|i| allocate(&format!("o-{sent}-{i}"), "LAMP", 1)).collect();
        system.sender.send_all(&commands).await;
        sent += commands.len();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let processes = [&outage.worker, &relay, &outage.api];
    for process in processes {
        assert_eq!(count(process, "available again"), 0, "{}", process.log());
    }
    let returns = count(&outage.worker, "returning messages");
    outage
        .execute(
            "alter database DATABASE reset default_transaction_read_only;
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'allocation'",
        )
        .await;
    let ended = Instant::now();
    system.wait_handled(sent).await;
    let handled = ended.elapsed();
    println!("{sent} commands, returned {returns} times; all were handled {handled:?} after the end");
    assert!(handled < HANDLED_WITHIN, "{handled:?}");
    assert_eq!(outage.post().await, 202);
    let events = system.settled(sent + 1).await;
    assert_eq!(events.len(), sent, "an event was published twice");
    assert_eq!(system.count("select count(*) from failed_messages").await, 0);
    assert_eq!(system.count("select count(*) from failed_attempts").await, 0);
    for process in processes {
        wait_until("the end is reported", SOON, async || count(process, "available again") == 1).await;
        println!(
            "{}",
            process.log().lines().filter(|line| line.contains("available")).collect::<Vec<_>>().join("\n")
        );
    }
    let Outage { system, worker, api, .. } = outage;
    system.close_after([worker, api, relay]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_an_outage_until_a_write_succeeds() {
    outage(
        "missing_rights_are_an_outage_until_a_write_succeeds",
        "revoke insert, update, delete on all tables in schema public from ROLE",
        "42501",
        "grant insert, update, delete on all tables in schema public to ROLE",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_outage_until_a_write_succeeds() {
    outage(
        "a_full_disk_is_an_outage_until_a_write_succeeds",
        "create function full_disk() returns trigger language plpgsql as
             $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$;
         create trigger full_disk before insert or update on inbox for each statement execute function full_disk();
         create trigger full_disk before insert or update on relay_state
             for each statement execute function full_disk()",
        "53100",
        "drop function full_disk() cascade",
    )
    .await;
}
