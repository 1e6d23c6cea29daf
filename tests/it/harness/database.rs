//! A database of a test's own, for the adapters alone: no broker and no process of the program.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use allocation::{
    adapters::postgres::{PgFailedMessages, PgOutbox, PgParkedEvents, PgStore, migrate},
    domain::MessageKey,
    pg::PgConfig,
    ports::{
        outbox::{LeaderSession, Outbox as _},
        queue::QueueName,
        store::{ChangeSet, Store, Tx},
    },
};
use serde_json::{Map, Value, json};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions,
    types::time::OffsetDateTime,
};
use time::format_description::well_known::Rfc3339;

use super::{
    namespace::{database_url, unique},
    wait_for,
};

/// A session that has to wait for another does so within this time.
const BLOCKS_WITHIN: Duration = Duration::from_secs(5);

/// A migrated database; it is removed at the end of the test, whatever the outcome.
pub(crate) struct Database {
    /// For questions.
    pub(crate) pool: PgPool,
    store: Arc<dyn Store>,
    failed_messages: Arc<PgFailedMessages>,
    name: String,
    /// Login roles of the server that were made for it.
    roles: Mutex<Vec<String>>,
}

impl Database {
    /// Creates one.
    pub(crate) async fn new() -> Self {
        let name = format!("it_{}", unique());
        let url = database_url(&name);
        migrate(&url).await.expect("PostgreSQL is there, and databases may be made");
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await;
        let access = access(&url);
        Self {
            pool: pool.expect("the database was made"),
            store: Arc::new(PgStore::new(access.pool(), &access, Arc::default())),
            failed_messages: Arc::new(PgFailedMessages::new(access.pool(), &access)),
            name,
            roles: Mutex::default(),
        }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        database_url(&self.name)
    }

    /// How the program reaches it as another role.
    pub(crate) fn access_as(&self, role: &str) -> PgConfig {
        let mut url = url::Url::parse(&database_url(&self.name)).expect("it is a URL");
        url.set_username(role).expect("the URL has a host");
        access(url.as_str())
    }

    /// A role that may log in and do in the database what the program does, and beside that what `grants`, which call it
    /// ROLE, let it do.
    pub(crate) async fn create_role(&self, grants: &str) -> String {
        let role = format!("it_{}", unique());
        self.roles.lock().expect("no test has panicked here").push(role.clone());
        self.execute(&format!(
            "create role {role} login;
             grant all on all tables in schema public to {role};
             grant all on all sequences in schema public to {role};
             {}",
            grants.replace("ROLE", &role)
        ))
        .await;
        role
    }

    /// The store over it.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The operators' side of the failed messages.
    pub(crate) fn failed_messages(&self) -> Arc<PgFailedMessages> {
        self.failed_messages.clone()
    }

    /// The operators' side of the parked events.
    pub(crate) fn parked_events(&self) -> PgParkedEvents {
        PgParkedEvents::new(self.pool.clone(), &self.config())
    }

    /// How the program reaches it.
    pub(crate) fn config(&self) -> PgConfig {
        access(&database_url(&self.name))
    }

    /// The outbox, as one relay uses it.
    pub(crate) fn outbox(&self) -> PgOutbox {
        PgOutbox::new(self.config(), Arc::default())
    }

    /// The session of the leader.
    pub(crate) async fn lead(&self) -> Box<dyn LeaderSession> {
        self.outbox().try_lead().await.expect("the database answers").expect("there is no other leader")
    }

    /// Begins a unit of work about `orders`.
    pub(crate) async fn begin(&self) -> Box<dyn Tx> {
        self.store.begin(QueueName::Orders).await.expect("the database answers")
    }

    /// Commits `work` in a transaction about `queue`, after the inbox was asked about `receipts`.
    pub(crate) async fn commit(&self, queue: QueueName, keys: &[MessageKey], work: ChangeSet) {
        let mut tx = self.store.begin(queue).await.expect("the database answers");
        tx.check_inbox(keys).await.expect("the inbox answers");
        tx.commit(work).await.expect("the commit succeeds");
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, statements: &str) {
        let done = sqlx::raw_sql(statements).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// One value, as text.
    pub(crate) async fn text(&self, question: &str) -> String {
        let answer: Option<String> = sqlx::query_scalar(question)
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{error}: {question}"));
        answer.unwrap_or_default()
    }

    /// One number.
    pub(crate) async fn count(&self, question: &str) -> i64 {
        let answer = sqlx::query_scalar(question).fetch_one(&self.pool).await;
        answer.unwrap_or_else(|error| panic!("{error}: {question}"))
    }

    /// A row of `failed_messages`: dead, in `orders`, of the type `allocate` and the body 1, unless `columns`, which are
    /// assignments in SQL, say otherwise.
    pub(crate) async fn failed(&self, message_id: &str, columns: &str) -> i64 {
        // Its id comes with the columns: before, the row might be equal to one of another queue or type.
        let id = self.count(
            "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status,
                 reason, error, error_pattern, error_group, attempts, generation, first_failed_at, last_failed_at)
             values ('orders', gen_random_uuid(), decode(repeat('01', 16), 'hex'), 'allocate', 'one', '{}', 'original',
                 'dead', 'rejected', 'Invalid sku X', 'Invalid sku', 'group-1', 3, 4, now() - interval '1 day',
                 now() - interval '1 hour')
             returning id",
        );
        let id = id.await;
        let columns = [&format!("message_id = '{message_id}'"), columns].map(String::from);
        let columns: Vec<_> = columns.into_iter().filter(|columns| !columns.is_empty()).collect();
        let statement = format!("update failed_messages set {} where id = {id}", columns.join(", "));
        self.execute(&statement).await;
        id
    }

    /// A row of `failed_messages` as it is now.
    pub(crate) async fn row(&self, id: i64) -> Row {
        let (columns, read_at): (String, OffsetDateTime) = sqlx::query_as(
            "select to_jsonb(f)::text, clock_timestamp() from failed_messages f where id = $1",
        )
        .bind(id)
        .fetch_one(&self.pool)
        .await
        .expect("the row is there");
        Row { columns: serde_json::from_str(&columns).expect("it is JSON"), read_at }
    }

    /// Waits until so many sessions wait for a lock.
    pub(crate) async fn wait_until_blocked(&self, sessions: i64) {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        let waiting = async || self.count(waiting).await;
        wait_for("sessions wait for a lock", BLOCKS_WITHIN, &sessions, waiting).await;
    }

    /// Until the gate is opened, every statement that inserts into `table` waits when it has inserted its rows.
    pub(crate) async fn gate_after_inserts(&self, table: &str) -> Gate {
        self.execute(&format!(
            "create function wait_at_gate() returns trigger language plpgsql set lock_timeout = 0
                 as $$ begin perform pg_advisory_xact_lock_shared({GATE}); return null; end $$;
             create trigger gate after insert on {table} for each statement execute function wait_at_gate()"
        ))
        .await;
        self.closed_gate().await
    }

    /// Until the gate is opened, new sessions that ask for the last id of the outbox wait.
    pub(crate) async fn gate_before_the_last_id(&self) -> Gate {
        self.before_the_last_id(&format!("perform pg_advisory_xact_lock_shared({GATE})")).await;
        self.closed_gate().await
    }

    /// New sessions that ask for the last id of the outbox run a statement first: they find a view under the name of
    /// the sequence, in the schema of their role.
    pub(crate) async fn before_the_last_id(&self, statement: &str) {
        self.execute(&format!(
            "do $$ begin execute format('create schema if not exists authorization %I', current_user); end $$;
             create function last_id() returns bigint language plpgsql set lock_timeout = 0
                 as $$ begin {statement}; return (select last_value from public.outbox_id_seq); end $$;
             create view outbox_id_seq as select last_id() as last_value"
        ))
        .await;
    }

    async fn closed_gate(&self) -> Gate {
        let mut session = self.pool.acquire().await.expect("a connection is free");
        let close = sqlx::query("select pg_advisory_lock($1)").bind(GATE);
        close.execute(&mut *session).await.expect("the lock is free");
        Gate(session)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut statements = vec![format!("drop database if exists {} with (force)", self.name)];
        let roles = self.roles.get_mut().map(std::mem::take).unwrap_or_default();
        statements.extend(roles.iter().map(|role| format!("drop role if exists {role}")));
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async {
                for statement in statements {
                    administer(statement).await;
                }
            });
        });
        // A test that failed for another reason must be able to say so.
        let _ = removal.join();
    }
}

/// Runs a statement that ends a database or a role.
async fn administer(statement: String) {
    let mut connection =
        PgConnection::connect(&database_url("postgres")).await.expect("PostgreSQL is available");
    sqlx::raw_sql(&statement).execute(&mut connection).await.expect("what a test made can be removed");
}

/// The advisory lock that sessions wait for.
const GATE: i64 = 1;

/// Holds sessions back until it is opened.
pub(crate) struct Gate(PoolConnection<Postgres>);

impl Gate {
    /// Lets all of them pass.
    pub(crate) async fn open(mut self) {
        let open = sqlx::query("select pg_advisory_unlock($1)").bind(GATE);
        open.execute(&mut *self.0).await.expect("the session holds the lock");
    }
}

/// A row as it was at a time.
pub(crate) struct Row {
    columns: Map<String, Value>,
    read_at: OffsetDateTime,
}

impl Row {
    /// All columns.
    pub(crate) fn columns(&self) -> Value {
        Value::Object(self.columns.clone())
    }

    /// A column.
    pub(crate) fn column(&self, name: &str) -> &Value {
        &self.columns[name]
    }

    /// The columns that are different from an earlier row, with their values. Times are `now` if they are between the two
    /// rows, and else said in seconds, to the nearest five.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Value {
        let changed = self.columns.iter().filter(|(name, value)| earlier.columns[*name] != **value);
        changed.map(|(name, value)| (name.clone(), self.described(earlier, name, value))).collect()
    }

    fn described(&self, earlier: &Self, name: &str, value: &Value) -> Value {
        let Some(time) = value.as_str().filter(|_| name.ends_with("_at")) else { return value.clone() };
        let time = OffsetDateTime::parse(time, &Rfc3339).expect("PostgreSQL writes RFC 3339");
        if (earlier.read_at..=self.read_at).contains(&time) {
            return json!("now");
        }
        let fives = ((time - earlier.read_at).as_seconds_f64() / 5.0).round();
        json!(format!("in {} s", 5.0 * fives))
    }
}

fn access(url: &str) -> PgConfig {
    PgConfig::new(url, 10, Duration::from_secs(10)).expect("the database's URL is one")
}
