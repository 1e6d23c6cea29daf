//! Locks that another session of the database holds: only the commands that need the locked rows wait.

use sqlx::{Connection as _, PgConnection};

use crate::harness::{
    Command, JSON, Running, SOON, TestSystem, allocate, change_batch_quantity, create_batch, deallocate,
    wait_for, wait_until,
};

/// The product with the locked rows is the first one.
const SKUS: [&str; 8] = ["LOCKED", "LAMP", "VASE", "SOFA", "DESK", "RUG", "CHAIR", "CLOCK"];

/// A session of another program with open locks.
struct Locks(PgConnection);

impl Locks {
    async fn take(system: &TestSystem, statement: &str) -> Self {
        let mut session = PgConnection::connect(&system.database_url()).await.unwrap();
        sqlx::raw_sql(&format!("begin; {statement}")).execute(&mut session).await.unwrap();
        Self(session)
    }

    async fn release(mut self) {
        sqlx::raw_sql("commit").execute(&mut self.0).await.unwrap();
    }
}

/// Each product has a batch, and a line `old` in it.
async fn with_stock(name: &str, environment: &[(&str, &str)]) -> (TestSystem, Running) {
    let system = TestSystem::new(name).await;
    let worker = system.worker_with(environment);
    let batches: Vec<_> = SKUS.iter().map(|sku| create_batch(&format!("b-{sku}"), sku, 10_000)).collect();
    system.sender.send_all(&batches).await;
    system.wait_handled(batches.len()).await;
    let lines: Vec<_> = SKUS.iter().map(|sku| allocate("old", sku, 1)).collect();
    system.sender.send_all(&lines).await;
    system.wait_drained(2 * SKUS.len()).await;
    (system, worker)
}

async fn handled_of(system: &TestSystem, sku: &str) -> i64 {
    sqlx::query_scalar("select count(*) from order_lines where sku = $1 and orderid like 'new-%'")
        .bind(sku)
        .fetch_one(&system.pool)
        .await
        .unwrap()
}

fn lines(sku: &str, count: usize) -> Vec<Command> {
    (0..count).map(|i| allocate(&format!("new-{i}"), sku, 1)).collect()
}

/// All is done once the lock is released; no attempt was counted.
async fn finish(system: TestSystem, processes: impl IntoIterator<Item = Running>, handled: usize) {
    system.settled(handled).await;
    let failed = "select count(*) from failed_messages where status <> 'resolved' or attempts > 0";
    assert_eq!(system.count(failed).await, 0);
    assert_eq!(system.count("select count(*) from failed_attempts").await, 0);
    system.close_after(processes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_product_delays_only_its_own_commands() {
    let (system, worker) = with_stock("a_locked_product_delays_only_its_own_commands", &[]).await;
    let locks = Locks::take(&system, "select from products where sku = 'LOCKED' for update").await;
    let mut sent = 2 * SKUS.len();
    // In several rounds: the lock is met again and again.
    for round in 0..5 {
        let commands: Vec<_> = SKUS
            .iter()
            .flat_map(|sku| (0..20).map(move |i| allocate(&format!("new-{round}-{i}"), sku, 1)))
            .chain([create_batch(&format!("late-{round}"), "LOCKED", 5), deallocate("old", "LOCKED")])
            .map(|command| {
                let id = format!("{} {round}", command.message_id);
                command.with_id(&id)
            })
            .collect();
        sent += commands.len();
        system.sender.send_all(&commands).await;
        for sku in &SKUS[1..] {
            wait_for("the others are handled", SOON, &(20 * (round + 1)), async || {
                handled_of(&system, sku).await
            })
            .await;
        }
    }
    assert_eq!(handled_of(&system, "LOCKED").await, 0);
    wait_until("a lock that lasts is reported", SOON, async || {
        worker.log().contains("another session has locked rows")
    })
    .await;
    locks.release().await;
    wait_until("its end is reported", SOON, async || worker.log().contains("had locked are free")).await;
    assert!(!worker.log().contains("returning messages"), "{}", worker.log());
    finish(system, [worker], sent).await;
}

/// Commands about all products while another session holds a lock. `delays_all` means that every command needs the lock.
async fn delays_without_attempts(number: usize, lock: &str, delays_all: bool) {
    let name = format!("every_kind_of_lock_delays_commands_and_counts_no_attempt_{number}");
    let (system, worker) = with_stock(&name, &[]).await;
    let locks = Locks::take(&system, lock).await;
    let commands: Vec<_> = SKUS
        .iter()
        .flat_map(|sku| [deallocate("old", sku), change_batch_quantity(&format!("b-{sku}"), 50)])
        .chain(SKUS.iter().flat_map(|sku| lines(sku, 10)))
        .collect();
    system.sender.send_all(&commands).await;
    if delays_all {
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    } else {
        for sku in &SKUS[1..] {
            wait_for(lock, SOON, &10, async || handled_of(&system, sku).await).await;
        }
    }
    locks.release().await;
    finish(system, [worker], 2 * SKUS.len() + commands.len()).await;
}

/// Rows that are written at the end of a unit of work.
#[tokio::test(flavor = "multi_thread")]
async fn every_locked_row_delays_only_the_commands_of_its_product() {
    tokio::join!(
        delays_without_attempts(1, "select from batches where sku = 'LOCKED' for update", false),
        delays_without_attempts(2, "select from order_lines where sku = 'LOCKED' for update", false),
        delays_without_attempts(3, "select from allocations_view where sku = 'LOCKED' for update", false),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_delays_commands_and_counts_no_attempt() {
    tokio::join!(
        delays_without_attempts(4, "lock table order_lines in share mode", true),
        delays_without_attempts(5, "lock table inbox in share mode", true),
        delays_without_attempts(6, "lock table products in access exclusive mode", true),
        delays_without_attempts(7, "lock table outbox in access exclusive mode", true),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_locked_product_do_not_keep_others_in_the_queue() {
    let environment = [("ALLOCATION__WORKER__PREFETCH", "100"), ("ALLOCATION__WORKER__MAX_BATCH", "50")];
    let name = "commands_of_a_locked_product_do_not_keep_others_in_the_queue";
    let (system, worker) = with_stock(name, &environment).await;
    system.expect_redeliveries();
    let locks = Locks::take(&system, "select from products where sku = 'LOCKED' for update").await;
    system.sender.send_all(&lines("LOCKED", 400)).await;
    system.sender.send_all(&lines("LAMP", 400)).await;
    wait_for("the others are handled", SOON, &400, async || handled_of(&system, "LAMP").await).await;
    assert_eq!(handled_of(&system, "LOCKED").await, 0);
    locks.release().await;
    finish(system, [worker], 2 * SKUS.len() + 800).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_only_requests_for_the_locked_product_are_asked_to_come_back() {
    let name = "over_http_only_requests_for_the_locked_product_are_asked_to_come_back";
    let (system, worker) = with_stock(name, &[]).await;
    let (api, client) = system.api("api", &[]).await;
    let locks = Locks::take(&system, "select from products where sku = 'LOCKED' for update").await;
    let post = async |sku: &str, orderid: String| {
        let body = allocate(&orderid, sku, 1).body.to_string();
        let key = ("Idempotency-Key", orderid.as_str());
        client.request("POST", "/allocate", &[JSON, key], body.as_bytes()).await
    };
    for i in 0..10 {
        let orderid = format!("new-{i}");
        let (locked, free) =
            tokio::join!(post("LOCKED", orderid.clone()), post("LAMP", format!("{orderid}-free")));
        assert!(locked.expect_status(503).text().contains("was not processed"));
        free.expect_status(202);
    }
    locks.release().await;
    let handled = async || post("LOCKED", "new-0".into()).await.status;
    wait_for("it is handled after the lock", SOON, &202, handled).await;
    finish(system, [worker, api], 2 * SKUS.len() + 11).await;
}
