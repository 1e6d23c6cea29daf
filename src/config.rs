//! Every setting, typed and checked. `config/default.toml` lists them with their defaults.

use std::{
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::Path,
    time::Duration,
};

use config::{Config, ConfigError, Environment, File, FileFormat};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

const DEFAULTS: &str = include_str!("../config/default.toml");
/// Queue names may have 255 bytes, and this stands before all of them.
const LONGEST_NAMESPACE: usize = 100;

/// All settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the settings' documentation")]
pub struct Settings {
    pub namespace: String,
    pub database: Database,
    pub broker: Broker,
    pub worker: Worker,
    pub relay: Relay,
    pub api: Api,
    pub smtp: Smtp,
    pub notifications: Notifications,
    pub retry: Retry,
    pub limits: Limits,
    pub retention: Retention,
    pub log: Log,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Database {
    pub url: SecretUrl,
    pub max_connections: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Broker {
    pub url: SecretUrl,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Worker {
    pub max_batch: NonZeroUsize,
    pub prefetch: NonZeroU16,
    pub partitions: NonZeroUsize,
    #[serde(with = "humantime_serde")]
    pub handler_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub requeue_after: Duration,
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Relay {
    pub max_in_flight: NonZeroU32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Api {
    pub listen: SocketAddr,
    pub token: Secret,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Smtp {
    pub url: SecretUrl,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Notifications {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Retry {
    pub max_attempts: NonZeroU32,
    #[serde(with = "humantime_serde")]
    pub initial_interval: Duration,
    pub multiplier: f64,
    #[serde(with = "humantime_serde")]
    pub max_interval: Duration,
    pub jitter: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Limits {
    pub body_bytes: NonZeroUsize,
    pub header_bytes: NonZeroUsize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Retention {
    #[serde(with = "humantime_serde")]
    pub inbox: Duration,
    #[serde(with = "humantime_serde")]
    pub failures: Duration,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see config/default.toml")]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A text that is nobody else's business: it never prints itself.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The text itself, for whoever needs it; none if it is empty.
    #[must_use]
    pub fn expose(&self) -> Option<&str> {
        Some(self.0.expose_secret()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.expose().is_some() { "redacted" } else { "" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// A URL that may hold a password: it never prints it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    /// The URL itself, for whoever connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn redacted(&self) -> String {
        let has_no_secret = self.expose().is_empty() || self.expose().starts_with("file:");
        if has_no_secret {
            return self.expose().to_owned();
        }
        let Ok(mut url) = Url::parse(self.expose()) else {
            return "(not a URL)".into();
        };
        if url.password().is_some() {
            let _ = url.set_password(Some("redacted"));
        }
        let redacted = |(key, value): (std::borrow::Cow<str>, std::borrow::Cow<str>)| {
            let value = if key == "password" { "redacted".into() } else { value.into_owned() };
            (key.into_owned(), value)
        };
        let pairs: Vec<_> = url.query_pairs().map(redacted).collect();
        if !pairs.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(pairs);
        }
        url.into()
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

impl Settings {
    /// Reads the defaults, then `file`, then `DATABASE_URL` and `AMQP_URL`, then `ALLOCATION__…` variables; what
    /// comes later wins.
    ///
    /// # Errors
    /// A key is unknown or a value is not what the key takes; the message names the key.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let urls = Config::builder()
            .set_override_option("database.url", std::env::var("DATABASE_URL").ok())?
            .set_override_option("broker.url", std::env::var("AMQP_URL").ok())?
            .build()?;
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix("ALLOCATION").prefix_separator("__").separator("__");
        builder.add_source(urls).add_source(environment).build()?.try_deserialize::<Self>()?.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let length = self.namespace.len();
        if length == 0 || length > LONGEST_NAMESPACE || !self.namespace.bytes().all(plain) {
            return Err(ConfigError::Message(format!(
                "namespace: must be 1 to {LONGEST_NAMESPACE} letters, digits, '-', '_' or '.'"
            )));
        }
        let needed = 3 * self.worker.partitions.get() + 6;
        if needed > self.database.max_connections.get() as usize {
            let (key, partitions) = ("database.max_connections", self.worker.partitions);
            return Err(ConfigError::Message(format!(
                "{key}: must be at least {needed} for worker.partitions = {partitions}"
            )));
        }
        let wrong = |key: &str, is: &str| Err(ConfigError::Message(format!("{key}: must be {is}")));
        if !(1.0..=100.0).contains(&self.retry.multiplier) {
            return wrong("retry.multiplier", "from 1 to 100");
        }
        if !(0.0..1.0).contains(&self.retry.jitter) {
            return wrong("retry.jitter", "from 0 to less than 1");
        }
        if self.api.timeout.is_zero() {
            return wrong("api.timeout", "longer than 0s");
        }
        if self.api.token.expose().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return wrong("api.token", "visible ASCII characters without blanks");
        }
        if !self.api.listen.ip().is_loopback() && self.api.token.expose().is_none() {
            let listen = self.api.listen;
            return Err(ConfigError::Message(format!(
                "api.token: must be set, for others can reach {listen} (api.listen)"
            )));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Settings, String> {
        let sources = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(toml, FileFormat::Toml));
        let settings = sources.build().unwrap().try_deserialize::<Settings>();
        settings.and_then(Settings::checked).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        assert_eq!(with("").unwrap().worker.max_batch.get(), 500);
    }

    #[test]
    fn a_mistake_is_named() {
        for (toml, named) in [
            ("[worker]\nmax_bacth = 1", "max_bacth"),
            ("[worker]\nmax_batch = 0", "max_batch"),
            ("[worker]\nhandler_timeout = \"soon\"", "handler_timeout"),
            ("[log]\nformat = \"xml\"", "xml"),
            ("namespace = \"a b\"", "namespace"),
            ("[worker]\npartitions = 9", "max_connections"),
            ("[api]\nlisten = \"somewhere\"", "listen"),
            ("[api]\ntoken = \"a b\"", "api.token"),
            ("[api]\ntimeout = \"0s\"", "api.timeout"),
            ("[api]\nlisten = \"0.0.0.0:8080\"", "api.token"),
            ("[api]\nlisten = \"[::]:8080\"", "api.token"),
            ("[retry]\njitter = 1.0", "retry.jitter"),
            ("[retry]\nmultiplier = 0.5", "retry.multiplier"),
        ] {
            let error = with(toml).unwrap_err();
            assert!(error.contains(named), "{toml}: {error}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let secrets = "[database]\nurl = \"postgres://me:hunter2@db/x?password=hunter2\"\n\
            [smtp]\nurl = \"smtps://me:hunter2@mail\"\n[api]\ntoken = \"hunter2\"";
        let settings = with(secrets).unwrap();
        let printed = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(!printed.contains("hunter2") && printed.contains("me:redacted@db"), "{printed}");
        for url in ["", "file:outgoing/mail"] {
            let settings = with(&format!("[smtp]\nurl = \"{url}\"")).unwrap();
            assert_eq!(serde_json::to_value(&settings).unwrap()["smtp"]["url"], url);
        }
    }
}
