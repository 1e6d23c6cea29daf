//! Who may create objects in the schema: the statements of this program could call them.

use sqlx::PgConnection;
use tracing::warn;

/// Takes the privilege to create objects in the schema from `PUBLIC`, which a database that was made by PostgreSQL 14 or
/// older grants. Warns of the roles that still have it.
pub(super) async fn restrict(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if creators(connection).await?.contains(&PUBLIC.to_owned()) {
        let schema: String = sqlx::query_scalar("select quote_ident(current_schema()::text)")
            .fetch_one(&mut *connection)
            .await?;
        // Without the privilege to revoke, the server only warns.
        let revoke = format!("revoke create on schema {schema} from public");
        if let Err(error) = sqlx::raw_sql(&revoke).execute(&mut *connection).await {
            warn!(%error, "cannot revoke the privilege to create objects in the schema");
        }
    }
    let creators = creators(connection).await?;
    if !creators.is_empty() {
        let roles = creators.join(", ");
        warn!(
            roles,
            "other roles may create objects in the schema of this program, and so take over its privileges; \
             revoke it: revoke create on schema SCHEMA from ROLE"
        );
    }
    Ok(())
}

/// All roles, in a list of roles.
const PUBLIC: &str = "PUBLIC";

/// The roles apart from the owner to which the privilege is granted.
async fn creators(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct coalesce(role.rolname::text, 'PUBLIC')
         from pg_namespace schema
         cross join lateral pg_catalog.aclexplode(coalesce(schema.nspacl, acldefault('n', schema.nspowner))) granted
         left join pg_roles role on role.oid = granted.grantee
         where schema.nspname = current_schema() and granted.privilege_type = 'CREATE'
           and granted.grantee <> schema.nspowner",
    )
    .fetch_all(connection)
    .await
}
