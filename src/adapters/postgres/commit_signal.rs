//! Notification of commits, between the tasks of one process and between processes.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tracing::debug;

use crate::{
    pg::{Pool, PooledSession},
    ports::error::{StoreError, error_text},
};

/// The NOTIFY channel on which a process announces that there is something to publish.
pub(super) const CHANNEL: &str = "allocation_outbox";
/// Commits within this time are announced together.
const FORWARD_INTERVAL: Duration = Duration::from_millis(20);
/// The pause before a lost listener is replaced.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Signals commits to the relay of this process and to those of other processes.
#[derive(Debug, Default)]
pub struct CommitSignal {
    local: Notify,
    remote: Notify,
}

impl CommitSignal {
    /// Signals that events or failures were committed.
    pub fn notify(&self) {
        self.local.notify_one();
        self.remote.notify_one();
    }

    /// Waits for a commit of this process, or for one of another process that [`listen`] has received.
    pub(super) async fn notified(&self) {
        self.local.notified().await;
    }
}

/// Announces the commits of this process to others. This is a hint: a failed announcement is not repeated.
pub async fn forward_commits(pool: Pool, timeout: Duration, commit_signal: Arc<CommitSignal>) {
    loop {
        commit_signal.remote.notified().await;
        if let Err(error) = announce(&pool, timeout).await {
            debug!(
                error = error_text(&error),
                "commit not announced; relays of other processes poll every second"
            );
        }
        tokio::time::sleep(FORWARD_INTERVAL).await;
    }
}

async fn announce(pool: &Pool, timeout: Duration) -> Result<(), StoreError> {
    let mut session = PooledSession::open(pool, timeout).await?;
    let notify = sqlx::query("select pg_notify($1, '')").bind(CHANNEL);
    session.run(async |connection| notify.execute(connection).await).await?;
    session.finish().await?;
    Ok(())
}

/// Receives the announcements of other processes, until it is dropped.
pub(super) async fn listen(options: &PgConnectOptions, commit_signal: &CommitSignal) {
    loop {
        if let Err(error) = receive(options.clone(), commit_signal).await {
            debug!(error = error_text(&error), "listener lost; the relay polls every second");
        }
        tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
    }
}

async fn receive(options: PgConnectOptions, commit_signal: &CommitSignal) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        listener.recv().await?;
        commit_signal.local.notify_one();
    }
}
