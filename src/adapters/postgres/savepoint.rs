//! The session of a dry run, which the parts of the dry run have one after another. Each part is a savepoint.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{pg::PooledSession, ports::error::StoreError};

/// A session that one part has at a time. It is closed, and so rolled back, if a part is dropped before its end.
#[derive(Clone)]
pub(super) struct SharedSession(Arc<Mutex<Option<PooledSession>>>);

/// Where a part returns the session to. No other part begins before that.
pub(super) struct SessionPlace(OwnedMutexGuard<Option<PooledSession>>);

impl SharedSession {
    /// A session with an open transaction.
    pub(super) fn new(session: PooledSession) -> Self {
        Self(Arc::new(Mutex::new(Some(session))))
    }

    /// Takes the session when no part has it.
    pub(super) async fn take(&self) -> Result<(SessionPlace, PooledSession), StoreError> {
        let mut place = self.0.clone().lock_owned().await;
        let session = place.take();
        let session =
            session.ok_or_else(|| StoreError::Unavailable("the session of the dry run has ended".into()))?;
        Ok((SessionPlace(place), session))
    }

    /// Runs statements. After an error the session is closed.
    pub(super) async fn run<T>(
        &self,
        statements: impl AsyncFnOnce(&mut PooledSession) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (SessionPlace(mut place), mut session) = self.take().await?;
        let answer = statements(&mut session).await?;
        *place = Some(session);
        Ok(answer)
    }
}

impl SessionPlace {
    /// Ends a part. What it has written stays visible if that succeeded and satisfies all constraints; otherwise it is
    /// undone, and its locks are released.
    pub(super) async fn end(
        mut self,
        mut session: PooledSession,
        written: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let written = match written {
            Ok(()) => session.statement("set constraints all immediate; release savepoint part").await,
            failed => failed,
        };
        let undo = "rollback to savepoint part; release savepoint part";
        if written.is_ok() || session.statement(undo).await.is_ok() {
            *self.0 = Some(session);
        }
        written
    }
}
