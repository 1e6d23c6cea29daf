//! The privileges of the role of this session.

use crate::{
    ports::{checks::RolePrivileges, error::StoreError},
    views::handle::Views,
};

/// The privileges that the program needs on each table. `deploy/sql/grants.sql` grants them.
const NEEDED: [(&str, &[&str]); 17] = [
    ("_sqlx_migrations", &["SELECT"]),
    ("allocations_view", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("batches", &["SELECT", "INSERT", "UPDATE"]),
    // Some columns only: the others are set by the server.
    ("failed_actions", &["SELECT", "INSERT"]),
    ("failed_attempts", &["SELECT", "INSERT"]),
    ("failed_message_changes", &["SELECT", "DELETE"]),
    ("failed_message_totals", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("failed_messages", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("inbox", &["SELECT", "INSERT", "DELETE"]),
    ("installation", &["SELECT", "INSERT"]),
    ("message_starts", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("order_lines", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("outbox", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("processes", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("products", &["SELECT", "INSERT", "UPDATE"]),
    ("published_events", &["SELECT", "INSERT", "DELETE"]),
    ("relay_state", &["SELECT", "UPDATE"]),
];
const PRIVILEGES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

impl Views {
    /// What the role of this session may do, compared with what the program needs.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn role_privileges(&self) -> Result<RolePrivileges, StoreError> {
        let tables = NEEDED.map(|(table, _)| table);
        let role = sqlx::query!(
            r#"select current_user::text as "role!", rolsuper as "is_superuser!",
                      exists (select from pg_class where relnamespace = current_schema()::regnamespace and relkind = 'r'
                              and relname <> '_sqlx_migrations' and pg_has_role(relowner, 'USAGE')) as "is_owner!"
               from pg_roles where rolname = current_user"#
        );
        let held = sqlx::query!(
            r#"select table_name as "table!", privilege as "privilege!"
               from pg_catalog.unnest($1::text[]) as table_name, pg_catalog.unnest($2::text[]) as privilege
               where to_regclass(table_name) is not null
                 and (has_table_privilege(to_regclass(table_name), privilege)
                      or table_name = 'failed_actions' and privilege = 'INSERT'
                         and has_column_privilege(to_regclass(table_name), 'who', 'INSERT'))"#,
            &tables as &[&str],
            &PRIVILEGES as &[&str],
        );
        let (role, held) = self
            .query(async |connection| {
                Ok((role.fetch_one(&mut *connection).await?, held.fetch_all(connection).await?))
            })
            .await?;
        let has = |table: &str, privilege: &str| {
            held.iter().any(|held| held.table == table && held.privilege == privilege)
        };
        let pairs = NEEDED.iter().flat_map(|(table, of_table)| {
            PRIVILEGES.iter().map(move |privilege| (*privilege, *table, of_table.contains(privilege)))
        });
        let named = |(privilege, table, _): (&str, &str, bool)| (privilege.to_owned(), table.to_owned());
        let (mut missing, mut excess) = (Vec::new(), Vec::new());
        for pair @ (privilege, table, is_needed) in pairs {
            match (is_needed, has(table, privilege)) {
                (true, false) => missing.push(named(pair)),
                (false, true) => excess.push(named(pair)),
                _ => {}
            }
        }
        if role.is_superuser || role.is_owner {
            excess.clear();
        }
        Ok(RolePrivileges {
            role: role.role,
            is_superuser: role.is_superuser,
            is_owner: role.is_owner,
            may_write: held.iter().any(|held| held.privilege != "SELECT"),
            missing,
            excess,
        })
    }
}
