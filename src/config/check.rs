//! Rules that the type of a setting cannot express.

use std::time::Duration;

use config::ConfigError;

use super::settings::Settings;

/// A queue name is limited to 255 bytes and begins with the namespace.
const MAX_NAMESPACE: usize = 100;

/// Half of the broker's default timeout for acknowledgements.
const MAX_DIGEST: Duration = Duration::from_mins(15);

/// Checks every rule.
///
/// # Errors
/// The name of a setting and the rule that its value breaks.
pub(super) fn check(settings: Settings) -> Result<Settings, ConfigError> {
    let Settings { retry, api, .. } = &settings;
    let token = api.token.expose();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let namespace = settings.namespace.as_bytes();
    let connections = required_connections(&settings);
    let rules = [
        (
            (1..=MAX_NAMESPACE).contains(&namespace.len()) && namespace.iter().all(|byte| is_name(*byte)),
            format!("namespace: must be 1 to {MAX_NAMESPACE} letters, digits, '-', '_' or '.'"),
        ),
        (
            connections <= settings.database.max_connections.get() as usize,
            format!(
                "database.max_connections: must be at least {connections} for worker.partitions = {}",
                settings.worker.partitions
            ),
        ),
        ((1.0..=100.0).contains(&retry.multiplier), "retry.multiplier: must be from 1 to 100".into()),
        ((0.0..1.0).contains(&retry.jitter), "retry.jitter: must be from 0 to less than 1".into()),
        (
            settings.notifications.digest <= MAX_DIGEST,
            format!("notifications.digest: must be at most {}", humantime::format_duration(MAX_DIGEST)),
        ),
        (!api.timeout.is_zero(), "api.timeout: must be longer than 0s".into()),
        (!api.keep_alive.is_zero(), "api.keep_alive: must be longer than 0s".into()),
        (
            token.is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_graphic())),
            "api.token: must be visible ASCII characters without blanks".into(),
        ),
        (
            token.is_some() || api.listen.ip().is_loopback(),
            format!("api.token: must be set, since api.listen = {} is not a loopback address", api.listen),
        ),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(ConfigError::Message(rule)),
        None => Ok(settings),
    }
}

/// One connection for each partition of the three main queues, and six for the other roles.
fn required_connections(settings: &Settings) -> usize {
    settings.worker.partitions.get().saturating_mul(3).saturating_add(6)
}
