//! A URL in its parts, and how it is printed.

use std::{fmt, net::IpAddr};

use secrecy::SecretString;

use super::form::{ALL, UrlForm};

/// What is printed in place of a secret.
const REDACTED: &str = "redacted";

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, or an IP address without brackets. Empty for the default of the server's kind.
    pub name: String,
    /// The port, if it is not the default one.
    pub port: Option<u16>,
}

/// A URL of a known form.
#[derive(Clone)]
pub struct ServerUrl {
    pub(super) form: &'static UrlForm,
    /// The scheme, in small letters.
    pub scheme: &'static str,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// The host; several if the form allows it. Never empty.
    pub hosts: Vec<Host>,
    /// What follows the host, without the slash; none if there is no slash.
    pub path: Option<String>,
    /// The parameters, in their order, each once.
    pub parameters: Vec<(String, String)>,
}

impl ServerUrl {
    /// Whether it has a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some() || self.parameter("password").is_some()
    }

    /// Whether a server is on another machine.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self.parameter("hostaddr").or_else(|| self.parameter("host")) {
            Some(host) => is_remote(host),
            None => self.hosts.iter().any(|host| is_remote(&host.name)),
        }
    }

    /// The value of a parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') {
            write!(f, "[{name}]")?;
        } else {
            f.write_str(plain(name))?;
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Without its secrets.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            f.write_str(plain(user))?;
        }
        if self.password.is_some() {
            write!(f, ":{REDACTED}")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        for (number, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if number == 0 { "" } else { "," })?;
        }
        if let Some(path) = &self.path {
            let path = if path == "/" { "%2f" } else { plain(path) };
            write!(f, "/{path}")?;
        }
        for (number, (name, value)) in self.parameters.iter().enumerate() {
            let is_public = self.form.parameter(name).is_some_and(|parameter| parameter.is_public);
            let value = if is_public { plain(value) } else { REDACTED };
            write!(f, "{}{}={value}", if number == 0 { '?' } else { '&' }, plain(name))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a host is another machine: neither a loopback address nor the folder of a socket. Without a name it is this one.
fn is_remote(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_local = host.is_empty()
        || host.starts_with('/')
        || host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    !is_local
}

/// A text of which nothing can be part of something else.
fn plain(text: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/[]".contains(&byte);
    if text.bytes().all(is_plain) { text } else { REDACTED }
}

/// The setting of an address without its secrets. Nothing is printed of a text that has no known form: a password can be
/// anywhere in it.
#[must_use]
pub fn printable(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.starts_with("file:") {
        return text.to_owned();
    }
    let urls = ALL.iter().find_map(|form| ServerUrl::parse_all(text, form).ok());
    match urls {
        Some(urls) => urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        None => "(not a URL of a known form)".into(),
    }
}
