//! Settings that contain secrets. They are redacted wherever they are printed.

use std::{borrow::Cow, fmt};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

const REDACTED: &str = "redacted";

/// A secret text.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The text; `None` if it is empty.
    #[must_use]
    pub fn expose(&self) -> Option<&str> {
        Some(self.0.expose_secret()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.expose().is_some() { REDACTED } else { "" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// A URL that may contain a password.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    /// The URL with its password.
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
            let _ = url.set_password(Some(REDACTED));
        }
        let pairs: Vec<_> = url.query_pairs().map(redact_password).collect();
        if !pairs.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(pairs);
        }
        url.into()
    }
}

fn redact_password((key, value): (Cow<'_, str>, Cow<'_, str>)) -> (String, String) {
    let value = if key == "password" { REDACTED.into() } else { value.into_owned() };
    (key.into_owned(), value)
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
