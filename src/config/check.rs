//! Rules that the type of a setting cannot express.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;

use crate::address::{AMQP, HTTP, POSTGRES, SMTP, ServerUrl, UrlForm};

use super::settings::Settings;

/// A queue name is limited to 255 bytes and begins with the namespace.
const MAX_NAMESPACE: usize = 100;
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// The longest time that old rows may be kept: ten years.
const MAX_RETENTION: Duration = Duration::from_hours(3650 * 24);
/// The most that a broker accepts.
const MAX_BODY_BYTES: u64 = 128 * 1024 * 1024;
const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// Half of the broker's default timeout for acknowledgements.
const MAX_DIGEST: Duration = Duration::from_mins(15);
const MAX_CONNECTIONS: u64 = 10_000;
/// A token that others can try must not be guessable.
const MIN_TOKEN: usize = 20;

/// Checks every rule. Returns one line for each setting that breaks one, which begins with its name.
pub(super) fn check(settings: &Settings) -> Vec<String> {
    let mut mistakes = Mistakes::default();
    mistakes.check_namespace(&settings.namespace);
    mistakes.check_addresses(settings);
    mistakes.check_numbers(settings);
    mistakes.check_durations(settings);
    mistakes.check_access(settings);
    mistakes.0
}

#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn rule(&mut self, key: &str, holds: bool, rule: impl Display) {
        if !holds {
            self.0.push(format!("{key}: {rule}"));
        }
    }

    fn number(&mut self, key: &str, value: impl TryInto<u64>, range: RangeInclusive<u64>) {
        let holds = value.try_into().is_ok_and(|value| range.contains(&value));
        self.rule(key, holds, format_args!("must be from {} to {}", range.start(), range.end()));
    }

    fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        let [least, most] = [range.start(), range.end()].map(|bound| humantime::format_duration(*bound));
        self.rule(key, range.contains(&value), format_args!("must be from {least} to {most}"));
    }

    fn url(&mut self, key: &str, url: &str, form: &'static UrlForm) {
        if let Err(error) = ServerUrl::parse_all(url, form) {
            self.0.push(format!("{key}: {error}"));
        }
    }

    fn check_namespace(&mut self, namespace: &str) {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let holds = (1..=MAX_NAMESPACE).contains(&namespace.len()) && namespace.bytes().all(is_name);
        let rule = format!("must be 1 to {MAX_NAMESPACE} letters, digits, '-', '_' or '.'");
        self.rule("namespace", holds, rule);
    }

    fn check_addresses(&mut self, settings: &Settings) {
        let Settings { database, broker, smtp, traces, .. } = settings;
        self.url("database.url (DATABASE_URL)", database.url.expose(), &POSTGRES);
        let session_url = database.session_url.expose();
        if !session_url.is_empty() {
            self.url("database.session_url", session_url, &POSTGRES);
        }
        self.url("broker.url (AMQP_URL)", broker.url.expose(), &AMQP);
        if !traces.endpoint.is_empty() {
            self.check_collector(&traces.endpoint);
        }
        let smtp = smtp.url.expose();
        if !smtp.is_empty() && !smtp.starts_with("file:") {
            self.url("smtp.url", smtp, &SMTP);
            let is_protected = ServerUrl::parse(smtp, &SMTP).map_or(true, |url| {
                url.scheme != "smtp"
                    || url.parameter("tls").is_some()
                    || !url.has_password()
                    || !url.is_remote()
            });
            let rule = "a password would be sent without TLS to another machine; add ?tls=required, or ?tls=none to allow it";
            self.rule("smtp.url", is_protected, rule);
        }
    }

    fn check_collector(&mut self, endpoint: &str) {
        let key = "traces.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)";
        match ServerUrl::parse(endpoint, &HTTP) {
            Ok(url) => {
                self.rule(key, url.hosts.iter().all(|host| !host.name.is_empty()), "must name a host");
                self.rule(key, url.user.is_none(), "must have no user and no password");
            }
            Err(error) => self.0.push(format!("{key}: {error}")),
        }
    }

    fn check_numbers(&mut self, settings: &Settings) {
        let Settings { database, worker, relay, retry, limits, traces, .. } = settings;
        self.number("worker.max_batch", worker.max_batch.get(), 1..=10_000);
        self.number("worker.partitions", worker.partitions.get(), 1..=256);
        // One connection for each partition of the three main queues, and six for the other roles.
        let required = (worker.partitions.get() as u64).saturating_mul(3).saturating_add(6);
        let connections = u64::from(database.max_connections.get());
        let rule = format!(
            "must be from {required} to {MAX_CONNECTIONS}, for worker.partitions = {}",
            worker.partitions
        );
        self.rule("database.max_connections", (required..=MAX_CONNECTIONS).contains(&connections), rule);
        self.number("relay.max_in_flight", relay.max_in_flight.get(), 1..=1_000_000);
        self.number("retry.max_attempts", retry.max_attempts.get(), 1..=1_000);
        self.rule("retry.multiplier", (1.0..=100.0).contains(&retry.multiplier), "must be from 1 to 100");
        self.rule("retry.jitter", (0.0..1.0).contains(&retry.jitter), "must be from 0 to less than 1");
        self.rule("traces.ratio", (0.0..=1.0).contains(&traces.ratio), "must be from 0 to 1");
        self.number("limits.body_bytes", limits.body_bytes.get(), 1..=MAX_BODY_BYTES);
        self.number("limits.header_bytes", limits.header_bytes.get(), 1..=MAX_HEADER_BYTES);
        let is_memory = (ByteSize::mb(1)..=ByteSize::tb(1)).contains(&limits.memory);
        self.rule("limits.memory", is_memory, "must be from 1 MB to 1 TB");
        let is_storage = (ByteSize::mb(1)..=ByteSize::pb(1)).contains(&limits.failed_messages);
        self.rule("limits.failed_messages", is_storage, "must be from 1 MB to 1 PB");
    }

    fn check_durations(&mut self, settings: &Settings) {
        let Settings { database, worker, relay, api, metrics, notifications, retry, retention, .. } =
            settings;
        self.duration("database.timeout", database.timeout, Duration::from_millis(100)..=HOUR);
        self.duration("worker.handler_timeout", worker.handler_timeout, Duration::ZERO..=DAY);
        self.duration("worker.requeue_after", worker.requeue_after, Duration::ZERO..=DAY);
        self.duration("worker.shutdown_timeout", worker.shutdown_timeout, Duration::ZERO..=HOUR);
        self.duration("relay.stall_timeout", relay.stall_timeout, 100 * MILLISECOND..=DAY);
        self.duration("api.timeout", api.timeout, MILLISECOND..=HOUR);
        self.duration("api.keep_alive", api.keep_alive, MILLISECOND..=DAY);
        self.duration("metrics.interval", metrics.interval, 100 * MILLISECOND..=HOUR);
        self.duration("notifications.digest", notifications.digest, Duration::ZERO..=MAX_DIGEST);
        self.duration("notifications.retry_for", notifications.retry_for, Duration::ZERO..=30 * DAY);
        self.duration("retry.initial_interval", retry.initial_interval, Duration::ZERO..=DAY);
        self.duration("retry.max_interval", retry.max_interval, Duration::ZERO..=30 * DAY);
        self.duration("retention.inbox", retention.inbox, Duration::ZERO..=MAX_RETENTION);
        self.duration("retention.failures", retention.failures, Duration::ZERO..=MAX_RETENTION);
        self.duration("retention.published", retention.published, Duration::ZERO..=MAX_RETENTION);
    }

    fn check_access(&mut self, settings: &Settings) {
        let api = &settings.api;
        let token = api.token.expose();
        let is_visible = token.is_none_or(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        self.rule("api.token", is_visible, "must be visible ASCII characters without blanks");
        let is_guarded = token.is_some() || api.listen.ip().is_loopback();
        let rule = format!("must be set, since api.listen = {} is not a loopback address", api.listen);
        self.rule("api.token", is_guarded, rule);
        let is_long = api.listen.ip().is_loopback() || token.is_none_or(|token| token.len() >= MIN_TOKEN);
        let rule = format!(
            "must have at least {MIN_TOKEN} characters, since api.listen = {} is not a loopback address",
            api.listen
        );
        self.rule("api.token", is_long, rule);
    }
}
