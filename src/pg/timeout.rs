//! The time limit of statements.

use std::time::Duration;

use crate::ports::error::StoreError;

use super::error::store_error;

/// Executes statements within a time limit.
pub(crate) async fn with_timeout<T>(
    timeout: Duration,
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(timeout, statements).await {
        Ok(outcome) => outcome.map_err(store_error),
        Err(_) => Err(StoreError::Timeout(format!("no reply within {timeout:?}").into())),
    }
}
