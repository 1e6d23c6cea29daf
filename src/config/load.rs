//! Reads the settings from the defaults, a file and the environment.

use std::{collections::HashMap, env, ffi::OsString, path::Path};

use config::{Config, ConfigError, Environment, File, FileFormat, Source, Value, ValueKind};

use super::{
    check::check,
    error::{SettingsError, invalid_file, invalid_value},
    files::read_files,
    settings::Settings,
};

const DEFAULTS: &str = include_str!("../../config/default.toml");
/// The variables of the environment that are settings begin with this.
const PREFIX: &str = "ALLOCATION";
/// Variables with the usual names, and their settings.
const URLS: [(&str, &str); 3] = [
    ("DATABASE_URL", "database.url"),
    ("AMQP_URL", "broker.url"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.endpoint"),
];
/// Between the parts of the name of a variable.
const SEPARATOR: &str = "__";
/// Settings whose values may be secrets.
const SECRETS: [&str; 5] = ["database.url", "database.session_url", "broker.url", "smtp.url", "api.token"];
/// The least similarity, from 0 to 1, of a known key that is suggested for an unknown one.
const SIMILARITY: f32 = 0.6;

impl Settings {
    /// Reads the defaults, then `file`, then `DATABASE_URL`, `AMQP_URL` and `OTEL_EXPORTER_OTLP_ENDPOINT`, then `ALLOCATION__…` variables. A later source
    /// overrides an earlier one. A secret may be in a file that a variable names.
    ///
    /// # Errors
    /// Keys are unknown or their values are invalid, or a file cannot be read.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let file = file.map(|file| File::from(file).format(FileFormat::Toml));
        let variables = read_files(variables(env::vars_os())?, is_secret);
        merge(file, variables.map_err(|mistakes| SettingsError { mistakes })?)
    }

    /// The same with the text of a file, and with these variables as the environment.
    ///
    /// # Errors
    /// Keys are unknown or their values are invalid.
    #[cfg(any(test, fuzzing))]
    pub fn from_text(
        toml: &str,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        merge(Some(File::from_str(toml, FileFormat::Toml)), variables(environment)?)
    }
}

fn merge(
    file: Option<impl Source + Send + Sync + 'static>,
    mut variables: HashMap<String, String>,
) -> Result<Settings, SettingsError> {
    let urls = URLS.map(|(variable, key)| (key, variables.remove(variable)));
    let environment = Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(variables));
    let sources = (|| {
        let mut given = Config::builder();
        for (key, url) in urls {
            given = given.set_override_option(key, url)?;
        }
        let mut sources = Config::builder().add_source(defaults());
        if let Some(file) = file {
            sources = sources.add_source(file);
        }
        sources.add_source(given.build()?).add_source(environment).build()
    })();
    read(&sources.map_err(|error: ConfigError| SettingsError::one(invalid_file(&error)))?)
}

/// The variables of the environment that are settings, without the white space around their values.
fn variables(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, SettingsError> {
    let (mut variables, mut mistakes) = (HashMap::new(), Vec::new());
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        let is_setting = name.to_ascii_uppercase().starts_with(&format!("{PREFIX}{SEPARATOR}"));
        // With a suffix, it may name a file with the value.
        if !is_setting && !URLS.iter().any(|(variable, _)| name.starts_with(variable)) {
            continue;
        }
        match value.into_string() {
            Ok(value) => drop(variables.insert(name, value.trim().to_owned())),
            Err(_) => mistakes.push(format!("the variable {name} is not UTF-8")),
        }
    }
    if mistakes.is_empty() { Ok(variables) } else { Err(SettingsError { mistakes }) }
}

/// Whether a variable is a setting that may be a secret.
fn is_secret(name: &str) -> bool {
    if let Some((_, key)) = URLS.iter().find(|(variable, _)| *variable == name) {
        return SECRETS.contains(key);
    }
    let name = name.to_ascii_lowercase().replace(SEPARATOR, ".");
    let key = name.strip_prefix(&PREFIX.to_ascii_lowercase()).and_then(|name| name.strip_prefix('.'));
    key.is_some_and(|key| SECRETS.contains(&key))
}

fn defaults() -> File<config::FileSourceString, FileFormat> {
    File::from_str(DEFAULTS, FileFormat::Toml)
}

/// Reads every known key, and reports all mistakes together.
fn read(sources: &Config) -> Result<Settings, SettingsError> {
    let known = keys(&default_values());
    let (values, unknown): (Vec<_>, Vec<_>) = keys(sources).into_iter().partition(|key| known.contains(key));
    let mut mistakes: Vec<_> = unknown.iter().map(|key| unknown_key(key, &known)).collect();
    let settings_of_all = settings(sources, &values);
    match &settings_of_all {
        Ok(settings) => mistakes.extend(check(settings)),
        Err(_) => mistakes.extend(values.iter().filter_map(|key| {
            let error = settings(sources, &[key]).err()?;
            Some(invalid_value(key, &error, SECRETS.contains(&key.as_str())))
        })),
    }
    match settings_of_all {
        Ok(settings) if mistakes.is_empty() => Ok(settings),
        _ => Err(SettingsError { mistakes }),
    }
}

/// The defaults.
fn default_values() -> Config {
    Config::builder().add_source(defaults()).build().expect("the defaults are valid")
}

/// The defaults with the values of `keys` from `sources`.
fn settings(sources: &Config, keys: &[impl AsRef<str>]) -> Result<Settings, ConfigError> {
    let mut values = Config::builder().add_source(defaults());
    for key in keys {
        values = values.set_override(key, sources.get::<Value>(key.as_ref())?)?;
    }
    values.build()?.try_deserialize()
}

fn unknown_key(unknown: &str, known: &[String]) -> String {
    if known.iter().any(|key| key.strip_prefix(unknown).is_some_and(|rest| rest.starts_with('.'))) {
        return format!("{unknown}: is a section of settings and has no value");
    }
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let hint = match similar::get_close_matches(unknown, &known, 1, SIMILARITY).first() {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "config/default.toml lists every key".into(),
    };
    format!("unknown setting {unknown}; {hint}")
}

/// The full name of every value, as `section.key`.
fn keys(sources: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    collect_keys("", &sources.cache, &mut keys);
    keys.sort_unstable();
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
mod tests;
