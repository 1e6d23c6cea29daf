//! How failures are treated, from the settings.

use gethostname::gethostname;

use crate::{
    config::Settings,
    service::{backoff::RetryPolicy, policy::FailurePolicy},
};

pub(super) fn policy(settings: &Settings) -> FailurePolicy {
    let retry = &settings.retry;
    FailurePolicy {
        handler_timeout: settings.worker.handler_timeout,
        retry: RetryPolicy {
            max_attempts: retry.max_attempts.get(),
            initial_interval: retry.initial_interval,
            multiplier: retry.multiplier,
            max_interval: retry.max_interval,
            jitter: retry.jitter,
            deferred_for: settings.notifications.retry_for,
        },
        host: process_name(),
    }
}

/// The name of this process: its host and process id.
pub(super) fn process_name() -> String {
    format!("{}:{}", gethostname().to_string_lossy(), std::process::id())
}
