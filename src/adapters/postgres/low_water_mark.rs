//! The id at which reading of the outbox starts.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

/// How often a busy relay checks whether the mark may rise.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(1);

/// No row has an id up to the mark, and none will have. Reading starts there, not at the index entries of removed rows,
/// which accumulate as long as another transaction holds an old snapshot.
///
/// Ids are assigned before the commit, so a smaller id may appear after a larger one was read. But a transaction holds a
/// lock on the table from before it is assigned an id until its end. Once all transactions that held the lock at some
/// moment have ended, every id assigned before that moment is visible, or never will be.
#[derive(Default)]
pub(super) struct LowWaterMark {
    id: i64,
    candidate: Option<Candidate>,
    checked_at: Option<Instant>,
}

/// An id to which the mark may rise when certain transactions have ended.
struct Candidate {
    /// The last id that was assigned.
    last_id: i64,
    /// The transactions that might not have committed a smaller id then.
    writers: Vec<String>,
}

impl LowWaterMark {
    /// All ids that have to be read are above this one.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// `id` is in the outbox, or will be assigned next. If the mark is not below it, an administrator emptied or restored
    /// the outbox, and reading starts at the beginning.
    pub(super) fn must_be_below(&mut self, id: i64) {
        if self.id >= id {
            *self = Self::default();
        }
    }

    /// Lets the mark rise if it may. Two checks are needed: one finds a candidate, a later one confirms it.
    pub(super) async fn advance(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.checked_at.is_some_and(|at| at.elapsed() < ADVANCE_INTERVAL) {
            return Ok(());
        }
        self.checked_at = Some(Instant::now());
        let Some(candidate) = self.candidate.take() else {
            // In this order: a transaction with an id up to this one holds the lock when the writers are read, or has
            // ended.
            let last_id = last_id(connection).await?;
            self.candidate = Some(Candidate { last_id, writers: writers(connection).await? });
            return Ok(());
        };
        let writers = writers(connection).await?;
        if candidate.writers.iter().any(|writer| writers.contains(writer)) {
            self.candidate = Some(candidate);
            return Ok(());
        }
        let oldest = oldest_above(connection, self.id).await?;
        self.id = oldest.map_or(candidate.last_id, |oldest| candidate.last_id.min(oldest - 1));
        Ok(())
    }
}

async fn last_id(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!("select last_value from outbox_id_seq").fetch_one(connection).await
}

async fn oldest_above(connection: &mut PgConnection, id: i64) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("select id from outbox where id > $1 order by id limit 1", id)
        .fetch_optional(connection)
        .await
}

/// The open transactions that may have written to the outbox.
async fn writers(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select virtualtransaction as "writer!" from pg_locks
           where relation = 'outbox'::regclass and mode = 'RowExclusiveLock' and granted"#
    )
    .fetch_all(connection)
    .await
}
