//! The roles of `deploy/sql`, and a hostile one.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};

/// Creates the roles and gives them their databases.
pub(crate) const ROLES: &str = include_str!("../../../deploy/sql/roles.sql");
/// Grants the privileges on the tables.
pub(crate) const GRANTS: &str = include_str!("../../../deploy/sql/grants.sql");
/// The login of the program if the whole suite tests its privileges. All tests share it.
pub(super) const RUNTIME_LOGIN: &str = "allocation_it";
/// The login of a role without privileges on what belongs to the program. All tests share it.
const HOSTILE_LOGIN: &str = "allocation_it_hostile";
/// The time between two floods of notifications.
const FLOOD_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the program of every test has the privileges of the runtime role only.
pub(super) fn tests_runtime_role() -> bool {
    std::env::var("TEST_ROLE").is_ok_and(|role| role == "runtime" || role == "hostile")
}

fn tests_hostile_role() -> bool {
    std::env::var("TEST_ROLE").is_ok_and(|role| role == "hostile")
}

/// Creates the roles and their privileges in a migrated database, if the suite tests them.
pub(super) async fn prepare(pool: &PgPool, url: &str) {
    if !tests_runtime_role() {
        return;
    }
    // Tests have roles of their own, too.
    let grants = [
        "grant usage on schema public to public;".to_owned(),
        grant_to_all("connect, temporary"),
        create_login(RUNTIME_LOGIN, "in role allocation_runtime"),
    ];
    for statements in [ROLES, GRANTS, &grants.concat()] {
        sqlx::raw_sql(statements).execute(pool).await.expect("the test may create roles");
    }
    if tests_hostile_role() {
        let grants = format!("{}{}", grant_to_all("create"), create_login(HOSTILE_LOGIN, ""));
        sqlx::raw_sql(&grants).execute(pool).await.expect("the test may create roles");
        connect_hostile_role(url).await;
    }
}

fn grant_to_all(privileges: &str) -> String {
    format!(
        "do $$ begin execute format('grant {privileges} on database %I to public', current_database()); end $$;"
    )
}

fn create_login(name: &str, options: &str) -> String {
    format!(
        "do $$ begin create role {name} login {options};
         exception when duplicate_object or unique_violation then null; end $$;"
    )
}

/// A role hinders the program as far as it may until the database is dropped: it holds advisory locks, has a schema with the name
/// of the program's role in which tables and functions have the names of the program's and the server's, and floods the
/// channels of notifications.
async fn connect_hostile_role(url: &str) {
    let mut url = url::Url::parse(url).expect("it is a URL");
    url.set_username(HOSTILE_LOGIN).expect("the URL has a host");
    let mut session = PgConnection::connect(url.as_str()).await.expect("every role may connect");
    let own = format!(
        "select pg_advisory_lock(x'72656c6179'::bigint);
         select pg_advisory_lock(x'3d32ad9e'::bigint * n) from generate_series(1, 1000) n;
         create schema {RUNTIME_LOGIN}; grant usage on schema {RUNTIME_LOGIN} to public;
         create table {RUNTIME_LOGIN}.outbox (id bigint); create table {RUNTIME_LOGIN}.inbox (id bigint);
         create table {RUNTIME_LOGIN}.products (id bigint); create table {RUNTIME_LOGIN}.failed_messages (id bigint);
         create function {RUNTIME_LOGIN}.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
         create function {RUNTIME_LOGIN}.unnest(text[]) returns setof text language sql as $$ select 'hostile' $$;
         grant all on all tables in schema {RUNTIME_LOGIN} to public;
         create temporary table relay_state (only_row boolean); create temporary table outbox (id bigint)"
    );
    sqlx::raw_sql(&own).execute(&mut session).await.expect("the role may create a schema of its own");
    tokio::spawn(async move {
        let notify = "select pg_notify(channel, n::text) from generate_series(1, 200) n,
                          unnest(array['outbox', 'allocation', 'allocation_outbox']) channel";
        while sqlx::query(notify).execute(&mut session).await.is_ok() {
            tokio::time::sleep(FLOOD_INTERVAL).await;
        }
    });
}
