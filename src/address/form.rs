//! The forms of URLs that this program knows.

/// What a URL of one kind of server may consist of.
#[derive(Debug, PartialEq, Eq)]
pub struct UrlForm {
    /// The schemes, in small letters.
    pub schemes: &'static [&'static str],
    /// Whether there may be several URLs, or several hosts in one, separated by commas.
    pub many: bool,
    /// The parameters after `?`.
    pub parameters: &'static [Parameter],
}

/// A parameter of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name. A name that ends with `[` is followed by any name and `]`.
    pub name: &'static str,
    /// Whether its value may be printed.
    pub is_public: bool,
}

const fn public(name: &'static str) -> Parameter {
    Parameter { name, is_public: true }
}

const fn secret(name: &'static str) -> Parameter {
    Parameter { name, is_public: false }
}

/// A PostgreSQL URL.
pub const POSTGRES: UrlForm = UrlForm {
    schemes: &["postgres", "postgresql"],
    many: false,
    parameters: &[
        public("sslmode"),
        public("ssl-mode"),
        public("sslrootcert"),
        public("ssl-root-cert"),
        public("ssl-ca"),
        public("sslcert"),
        public("ssl-cert"),
        secret("sslkey"),
        secret("ssl-key"),
        public("statement-cache-capacity"),
        public("host"),
        public("hostaddr"),
        public("port"),
        public("dbname"),
        public("user"),
        secret("password"),
        public("application_name"),
        secret("options"),
        secret("options["),
    ],
};

/// The URL of a broker, or of several nodes of one.
pub const AMQP: UrlForm = UrlForm {
    schemes: &["amqp", "amqps"],
    many: true,
    parameters: &[
        public("heartbeat"),
        public("frame_max"),
        public("channel_max"),
        public("connection_timeout"),
        public("auth_mechanism"),
        public("cacertfile"),
        public("certfile"),
        public("keyfile"),
    ],
};

/// The URL of a mail server.
pub const SMTP: UrlForm = UrlForm { schemes: &["smtp", "smtps"], many: false, parameters: &[public("tls")] };

/// The URL of a server that speaks HTTP.
pub const HTTP: UrlForm = UrlForm { schemes: &["http", "https"], many: false, parameters: &[] };

/// All forms.
pub(super) const ALL: [&UrlForm; 4] = [&POSTGRES, &AMQP, &SMTP, &HTTP];

impl UrlForm {
    /// The known parameter of this name.
    pub(super) fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|known| match known.name.strip_suffix('[') {
            Some(list) => {
                name.strip_prefix(list).is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']'))
            }
            None => known.name == name,
        })
    }
}
