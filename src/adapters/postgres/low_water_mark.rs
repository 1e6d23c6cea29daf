//! Where reading of the outbox begins.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

/// How often a busy relay looks whether it may forget where removed rows were.
const RAISE_EVERY: Duration = Duration::from_secs(1);

/// Below it no row is left and none will appear. Reading begins there, not at the remains of removed rows, which
/// pile up as long as somebody holds an old snapshot.
///
/// Ids are given before the commit, so a smaller one may appear after a larger one was read. But whoever was given one
/// holds a lock on the table until its end: once those who held it at some moment are gone, every id given before
/// that moment is visible, or never will be.
#[derive(Default)]
pub(super) struct LowWaterMark {
    id: i64,
    /// An id that was the last to be given, and those who might not have committed a smaller one then.
    next: Option<(i64, Vec<String>)>,
    looked_at: Option<Instant>,
}

impl LowWaterMark {
    /// Where reading begins.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// `id` is in the outbox, or will be next. If the floor is not below it, an administrator emptied the outbox or restored
    /// it, and reading begins at its beginning.
    pub(super) fn must_be_below(&mut self, id: i64) {
        if self.id >= id {
            *self = Self::default();
        }
    }

    /// Looks whether it may rise, from time to time.
    pub(super) async fn advance(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.looked_at.is_some_and(|at| at.elapsed() < RAISE_EVERY) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let Some((last, writers)) = self.next.take() else {
            // In this order: whoever is given an id up to this one holds the lock when it is asked for next.
            let last = sqlx::query_scalar!("select last_value from outbox_id_seq")
                .fetch_one(&mut *connection)
                .await?;
            self.next = Some((last, writers(connection).await?));
            return Ok(());
        };
        let still = self::writers(connection).await?;
        if writers.iter().any(|writer| still.contains(writer)) {
            self.next = Some((last, writers));
            return Ok(());
        }
        let oldest = sqlx::query_scalar!("select id from outbox where id > $1 order by id limit 1", self.id);
        let oldest = oldest.fetch_optional(connection).await?;
        self.id = oldest.map_or(last, |oldest| last.min(oldest - 1));
        Ok(())
    }
}

/// The transactions that may have written to the outbox and are not over.
async fn writers(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select virtualtransaction as "writer!" from pg_locks
           where relation = 'outbox'::regclass and mode = 'RowExclusiveLock' and granted"#
    )
    .fetch_all(connection)
    .await
}
