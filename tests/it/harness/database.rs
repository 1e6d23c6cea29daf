//! A separate database for a test of the adapters, without a broker and without a process of the program.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use allocation::{
    adapters::postgres::{Migration, PgFailedMessages, PgOutbox, PgParkedEvents, PgStore, migrate},
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

/// The deadline for a session to be blocked by another one.
const BLOCKS_WITHIN: Duration = Duration::from_secs(5);

/// The namespace that the database belongs to.
pub(crate) const NAMESPACE: &str = "it";

/// A migrated database. It is removed at the end of the test, also after a failure.
pub(crate) struct Database {
    /// For queries of the test.
    pub(crate) pool: PgPool,
    store: Arc<dyn Store>,
    failed_messages: Arc<PgFailedMessages>,
    name: String,
    /// The login roles that were created for this database.
    roles: Mutex<Vec<String>>,
}

impl Database {
    /// Creates a database with a unique name.
    pub(crate) async fn new() -> Self {
        let name = format!("it_{}", unique());
        let url = database_url(&name);
        let config = pg_config(&url);
        let migration = Migration { namespace: NAMESPACE, rename: false, on_delay: &|_| () };
        let migrated = migrate(&config, &migration).await;
        migrated.expect("PostgreSQL is available, and databases can be created");
        Self::existing(name).await
    }

    async fn existing(name: String) -> Self {
        let url = database_url(&name);
        let pool = PgPoolOptions::new().max_connections(3).connect(&url).await;
        let config = pg_config(&url);
        Self {
            pool: pool.expect("the database was created"),
            store: Arc::new(PgStore::new(config.pool(), &config, Arc::default())),
            failed_messages: Arc::new(PgFailedMessages::new(config.pool(), &config)),
            name,
            roles: Mutex::default(),
        }
    }

    /// An empty database of this encoding.
    pub(crate) async fn empty(encoding: &str) -> Self {
        let name = format!("it_{}", unique());
        let statement = format!("create database {name} encoding '{encoding}' locale 'C' template template0");
        execute_on_server(statement).await;
        Self::existing(name).await
    }

    /// The URL of the database.
    pub(crate) fn url(&self) -> String {
        database_url(&self.name)
    }

    /// The configuration of the program for another role.
    pub(crate) fn config_as(&self, role: &str) -> PgConfig {
        let mut url = url::Url::parse(&database_url(&self.name)).expect("the URL is valid");
        url.set_username(role).expect("the URL has a host");
        pg_config(url.as_str())
    }

    /// Creates a login role with the privileges that the program needs, and with `grants`. In `grants`, ROLE stands for its
    /// name.
    pub(crate) async fn create_role(&self, grants: &str) -> String {
        let role = format!("it_{}", unique());
        self.roles.lock().expect("no other thread has panicked").push(role.clone());
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

    /// The store of the database.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The operator actions on failed messages.
    pub(crate) fn failed_messages(&self) -> Arc<PgFailedMessages> {
        self.failed_messages.clone()
    }

    /// The operator actions on parked events.
    pub(crate) fn parked_events(&self) -> PgParkedEvents {
        PgParkedEvents::new(self.pool.clone(), &self.config())
    }

    /// The configuration of the program.
    pub(crate) fn config(&self) -> PgConfig {
        pg_config(&database_url(&self.name))
    }

    /// An outbox, as a relay uses it.
    pub(crate) fn outbox(&self) -> PgOutbox {
        PgOutbox::new(self.config(), NAMESPACE, Arc::default())
    }

    /// Becomes leader and returns the session.
    pub(crate) async fn lead(&self) -> Box<dyn LeaderSession> {
        self.outbox().try_lead().await.expect("the database answers").expect("there is no other leader")
    }

    /// Begins a transaction about messages of `orders`.
    pub(crate) async fn begin(&self) -> Box<dyn Tx> {
        self.store.begin(QueueName::Orders).await.expect("the database answers")
    }

    /// Commits `work` in a transaction about messages of `queue`, after a check of the inbox.
    pub(crate) async fn commit(&self, queue: QueueName, keys: &[MessageKey], work: ChangeSet) {
        let mut tx = self.store.begin(queue).await.expect("the database answers");
        tx.check_inbox(keys).await.expect("the inbox can be checked");
        tx.commit(work).await.expect("the commit succeeds");
    }

    /// Executes statements.
    pub(crate) async fn execute(&self, statements: &str) {
        let done = sqlx::raw_sql(statements).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// The only value of a query, as text.
    pub(crate) async fn text(&self, query: &str) -> String {
        let answer: Option<String> = sqlx::query_scalar(query)
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{error}: {query}"));
        answer.unwrap_or_default()
    }

    /// The only number of a query.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        let answer = sqlx::query_scalar(query).fetch_one(&self.pool).await;
        answer.unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// Inserts a row into `failed_messages`: dead, in `orders`, with the type `allocate` and the body 1. `columns` are
    /// assignments in SQL that replace these defaults.
    pub(crate) async fn failed(&self, message_id: &str, columns: &str) -> i64 {
        // The unique key is checked at once. A random message id prevents a violation until all columns are assigned.
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

    /// Reads a row of `failed_messages`.
    pub(crate) async fn row(&self, id: i64) -> Row {
        let (columns, read_at): (String, OffsetDateTime) = sqlx::query_as(
            "select to_jsonb(f)::text, clock_timestamp() from failed_messages f where id = $1",
        )
        .bind(id)
        .fetch_one(&self.pool)
        .await
        .expect("the row exists");
        Row { columns: serde_json::from_str(&columns).expect("the columns are JSON"), read_at }
    }

    /// Waits until this number of sessions waits for a lock.
    pub(crate) async fn wait_until_blocked(&self, sessions: i64) {
        let waiting = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'";
        let waiting = async || self.count(waiting).await;
        wait_for("sessions wait for a lock", BLOCKS_WITHIN, &sessions, waiting).await;
    }

    /// Closes a gate: every statement that inserts into `table` waits after its rows are inserted, until the gate is opened.
    pub(crate) async fn gate_after_inserts(&self, table: &str) -> Gate {
        self.execute(&format!(
            "create function wait_at_gate() returns trigger language plpgsql set lock_timeout = 0
                 as $$ begin perform pg_advisory_xact_lock_shared({GATE}); return null; end $$;
             create trigger gate after insert on {table} for each statement execute function wait_at_gate()"
        ))
        .await;
        self.closed_gate().await
    }

    /// Closes a gate: new sessions that read the last id of the outbox wait until the gate is opened.
    pub(crate) async fn gate_before_the_last_id(&self) -> Gate {
        self.before_the_last_id(&format!("perform pg_advisory_xact_lock_shared({GATE})")).await;
        self.closed_gate().await
    }

    /// Makes sessions execute a statement before they read the last id of the outbox: a view has the name of the sequence.
    pub(crate) async fn before_the_last_id(&self, statement: &str) {
        self.execute(&format!(
            "alter sequence outbox_id_seq rename to outbox_ids;
             create function last_id() returns bigint language plpgsql set lock_timeout = 0
                 as $$ begin {statement}; return (select last_value from outbox_ids); end $$;
             create view outbox_id_seq as select last_id() as last_value"
        ))
        .await;
    }

    async fn closed_gate(&self) -> Gate {
        let mut session = self.pool.acquire().await.expect("a connection is free");
        let close = sqlx::query("select pg_advisory_lock($1)").bind(GATE);
        close.execute(&mut *session).await.expect("the advisory lock is free");
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
                    execute_on_server(statement).await;
                }
            });
        });
        // A panic here would hide the failure of the test.
        let _ = removal.join();
    }
}

/// Executes a statement that removes a database or a role.
async fn execute_on_server(statement: String) {
    let mut connection =
        PgConnection::connect(&database_url("postgres")).await.expect("PostgreSQL is available");
    sqlx::raw_sql(&statement)
        .execute(&mut connection)
        .await
        .expect("databases and roles of a test can be removed");
}

/// The advisory lock that sessions wait for at a gate.
const GATE: i64 = 1;

/// A closed gate: sessions wait until it is opened.
pub(crate) struct Gate(PoolConnection<Postgres>);

impl Gate {
    /// Opens the gate.
    pub(crate) async fn open(mut self) {
        let open = sqlx::query("select pg_advisory_unlock($1)").bind(GATE);
        open.execute(&mut *self.0).await.expect("the session holds the lock");
    }
}

/// A row, and the time at which it was read.
pub(crate) struct Row {
    columns: Map<String, Value>,
    read_at: OffsetDateTime,
}

impl Row {
    /// All columns.
    pub(crate) fn columns(&self) -> Value {
        Value::Object(self.columns.clone())
    }

    /// The value of a column.
    pub(crate) fn column(&self, name: &str) -> &Value {
        &self.columns[name]
    }

    /// The columns that have changed since `earlier`, with their values. A time between the two reads is `now`; another time
    /// is the number of seconds from the first read, rounded to a multiple of five.
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

fn pg_config(url: &str) -> PgConfig {
    PgConfig::new(url, 10, Duration::from_secs(10)).expect("the URL is valid")
}
