//! The mistakes in the settings.

use std::fmt;

use config::ConfigError;

/// What is wrong with the settings; each mistake names its setting. No secret is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// One mistake or several, one line each.
    pub mistakes: Vec<String>,
}

impl SettingsError {
    pub(super) fn one(mistake: impl Into<String>) -> Self {
        Self { mistakes: vec![mistake.into()] }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistakes.join("; "))
    }
}

impl std::error::Error for SettingsError {}

/// A file that cannot be read. The library repeats the line with the mistake, which may contain a password.
pub(super) fn invalid_file(error: &ConfigError) -> String {
    let text = error.to_string();
    let is_quotation = |line: &&str| {
        let rest = line.trim_start().trim_start_matches(|digit: char| digit.is_ascii_digit());
        rest.trim_start().starts_with('|')
    };
    let lines: Vec<_> = text.lines().filter(|line| !is_quotation(line)).map(str::trim).collect();
    lines.join(": ")
}

/// A value of the wrong type. `value` is shown unless it may be a secret.
pub(super) fn invalid_value(key: &str, error: &ConfigError, is_secret: bool) -> String {
    let mut error = error;
    while let ConfigError::At { error: inner, .. } = error {
        error = inner;
    }
    match error {
        _ if is_secret => format!("{key}: must be a text"),
        ConfigError::Type { unexpected, expected, .. } => {
            format!("{key}: must be {expected}, not {unexpected}")
        }
        other => format!("{key}: {other}"),
    }
}
