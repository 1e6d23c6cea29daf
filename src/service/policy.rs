//! How failures of handlers are treated.

use std::time::Duration;

use super::backoff::RetryPolicy;

/// The limits of handlers and the retries of failed messages.
#[derive(Clone, Debug)]
pub struct FailurePolicy {
    /// A handler that runs longer has failed.
    pub handler_timeout: Duration,
    /// When failed messages are retried.
    pub retry: RetryPolicy,
    /// The name of this process in the attempts that it records.
    pub host: String,
}
