//! Reads the settings from the defaults, a file and the environment.

use std::path::Path;

use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};

use super::{check::check, settings::Settings};

const DEFAULTS: &str = include_str!("../../config/default.toml");
/// The least similarity, from 0 to 1, of a known key that is suggested for an unknown one.
const SIMILARITY: f32 = 0.6;

impl Settings {
    /// Reads the defaults, then `file`, then `DATABASE_URL` and `AMQP_URL`, then `ALLOCATION__…` variables. A later source
    /// overrides an earlier one.
    ///
    /// # Errors
    /// A key is unknown or its value is invalid; the message names the key.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let urls = Config::builder()
            .set_override_option("database.url", std::env::var("DATABASE_URL").ok())?
            .set_override_option("broker.url", std::env::var("AMQP_URL").ok())?
            .build()?;
        let mut sources = Config::builder().add_source(defaults());
        if let Some(file) = file {
            sources = sources.add_source(File::from(file).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix("ALLOCATION").prefix_separator("__").separator("__");
        read(sources.add_source(urls).add_source(environment).build()?)
    }
}

fn defaults() -> File<config::FileSourceString, FileFormat> {
    File::from_str(DEFAULTS, FileFormat::Toml)
}

fn read(sources: Config) -> Result<Settings, ConfigError> {
    let known = keys(&Config::builder().add_source(defaults()).build()?);
    let is_known = |key: &str| known.iter().any(|known| known == key || is_section(key, known));
    if let Some(unknown) = keys(&sources).iter().find(|key| !is_known(key)) {
        return Err(unknown_key(unknown, &known));
    }
    check(sources.try_deserialize()?)
}

/// Whether `key` is in the section `name`. A value in place of a section is an error of its type, found later.
fn is_section(name: &str, key: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
}

fn unknown_key(unknown: &str, known: &[String]) -> ConfigError {
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let hint = match similar::get_close_matches(unknown, &known, 1, SIMILARITY).first() {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "config/default.toml lists every key".into(),
    };
    ConfigError::Message(format!("unknown setting {unknown}; {hint}"))
}

/// The full name of every value, as `section.key`.
fn keys(sources: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    collect_keys("", &sources.cache, &mut keys);
    keys
}

fn collect_keys(path: &str, value: &Value, keys: &mut Vec<String>) {
    let ValueKind::Table(entries) = &value.kind else {
        keys.push(path.to_owned());
        return;
    };
    for (key, value) in entries {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        collect_keys(&path, value, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(toml: &str) -> Result<Settings, String> {
        let file = File::from_str(toml, FileFormat::Toml);
        let sources = Config::builder().add_source(defaults()).add_source(file).build().unwrap();
        read(sources).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        assert_eq!(with("").unwrap().worker.max_batch.get(), 500);
    }

    #[test]
    fn the_error_for_an_unknown_key_names_the_nearest_known_one() {
        for (toml, error) in [
            ("[worker]\nmax_bacth = 1", "unknown setting worker.max_bacth; did you mean worker.max_batch?"),
            ("[wroker]\nprefetch = 1", "unknown setting wroker.prefetch; did you mean worker.prefetch?"),
            ("[limits]\nbody = 1", "unknown setting limits.body; did you mean limits.body_bytes?"),
            ("namespcae = \"a\"", "unknown setting namespcae; did you mean namespace?"),
            ("qqq = 1", "unknown setting qqq; config/default.toml lists every key"),
        ] {
            assert_eq!(with(toml).unwrap_err(), error);
        }
    }

    #[test]
    fn the_error_for_an_invalid_value_names_its_key() {
        for (toml, key) in [
            ("worker = 1", "worker"),
            ("[worker]\nmax_batch = 0", "max_batch"),
            ("[worker]\nhandler_timeout = \"soon\"", "handler_timeout"),
            ("[log]\nformat = \"xml\"", "xml"),
            ("namespace = \"a b\"", "namespace"),
            ("namespace = \"\"", "namespace"),
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
            assert!(error.contains(key) && !error.contains("unknown"), "{toml}: {error}");
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
