//! The migrations of this program.

use sqlx::migrate::Migrator;

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// The same without the library's advisory lock, which every role can hold: `migrate` takes a lock that needs privileges.
pub(super) fn unlocked() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(false);
    migrator
}

/// The version of the schema that this program requires.
pub(super) fn expected_version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}
