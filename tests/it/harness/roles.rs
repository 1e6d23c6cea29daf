//! The roles of `deploy/sql`.

use sqlx::PgPool;

/// Creates the roles and gives them their databases.
pub(crate) const ROLES: &str = include_str!("../../../deploy/sql/roles.sql");
/// Grants the privileges on the tables.
pub(crate) const GRANTS: &str = include_str!("../../../deploy/sql/grants.sql");
/// The login of the program if the whole suite tests its privileges. All tests share it.
pub(super) const RUNTIME_LOGIN: &str = "allocation_it";

/// Whether the program of every test has the privileges of the runtime role only.
pub(super) fn tests_runtime_role() -> bool {
    std::env::var("TEST_ROLE").is_ok_and(|role| role == "runtime")
}

/// Creates the roles and their privileges in a migrated database, if the suite tests them.
pub(super) async fn prepare(pool: &PgPool) {
    if !tests_runtime_role() {
        return;
    }
    // Tests with roles of their own connect, too.
    let login = format!(
        "do $$ begin
             execute format('grant connect, temporary on database %I to public', current_database());
         end $$;
         do $$ begin
             create role {RUNTIME_LOGIN} login in role allocation_runtime;
         exception when duplicate_object or unique_violation then null; end $$"
    );
    for statements in [ROLES, GRANTS, &login] {
        sqlx::raw_sql(statements).execute(pool).await.expect("the test may create roles");
    }
}
