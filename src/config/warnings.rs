//! Warnings about passwords that others could read on the network.

use std::env;

use crate::address::{AMQP, POSTGRES, SMTP, ServerUrl, UrlForm};

use super::settings::Settings;

/// What may happen to a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// It is sent without encryption.
    Unprotected,
    /// It is sent without encryption to a server that offers none, or seems to offer none.
    Optional,
    /// It is sent to a server whose certificate is not verified.
    Unverified,
}

impl Settings {
    /// One line for each server whose password is sent over the network unprotected, or to a server that is not verified.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Self { database, broker, smtp, .. } = self;
        let ssl_mode = env::var("PGSSLMODE").ok();
        let mut warnings = Vec::new();
        for (key, text, form, remedy) in [
            ("database.url", database.url.expose(), &POSTGRES, "add ?sslmode=verify-full"),
            ("database.session_url", database.session_url.expose(), &POSTGRES, "add ?sslmode=verify-full"),
            ("broker.url", broker.url.expose(), &AMQP, "use amqps://"),
            ("smtp.url", smtp.url.expose(), &SMTP, "use smtps://, or add ?tls=required"),
        ] {
            let urls = ServerUrl::parse_all(text, form).unwrap_or_default();
            let exposed = urls.iter().find_map(|url| Some((url, exposure(url, form, ssl_mode.as_deref())?)));
            if let Some((url, exposure)) = exposed {
                let hosts = url.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let what = match exposure {
                    Exposure::Unprotected => "goes over the network unprotected",
                    Exposure::Optional => {
                        "goes over the network unprotected if the server seems to offer no TLS"
                    }
                    Exposure::Unverified => {
                        "goes to any server that answers, because its certificate is not verified"
                    }
                };
                warnings.push(format!("{key}: the password for {hosts} {what}; {remedy}"));
            }
        }
        warnings
    }
}

impl Settings {
    /// Whether the database is on another machine.
    #[must_use]
    pub fn database_is_remote(&self) -> bool {
        ServerUrl::parse(self.database.url.expose(), &POSTGRES).is_ok_and(|url| url.is_remote())
    }

    /// Settings that are valid one by one, and contradict each other.
    #[must_use]
    pub fn contradictions(&self) -> Vec<String> {
        let Self { worker, retry, database, retention, .. } = self;
        let duration = |duration| humantime::format_duration(duration).to_string();
        let mut found = Vec::new();
        if retry.initial_interval > retry.max_interval {
            let (initial, max) = (duration(retry.initial_interval), duration(retry.max_interval));
            found.push(format!(
                "retry.initial_interval = {initial} is longer than retry.max_interval = {max}"
            ));
        }
        let partitions = worker.partitions.get();
        if usize::try_from(database.max_connections.get()).is_ok_and(|connections| connections < partitions) {
            let connections = database.max_connections;
            found.push(format!(
                "worker.partitions = {partitions} is more than database.max_connections = {connections}: partitions wait for \
                 each other"
            ));
        }
        if retention.inbox < worker.requeue_after {
            let (inbox, requeue) = (duration(retention.inbox), duration(worker.requeue_after));
            found.push(format!(
                "retention.inbox = {inbox} is shorter than worker.requeue_after = {requeue}: a message may be handled twice"
            ));
        }
        found
    }
}

/// What may happen to the password of a URL; `None` if it has none, or if the server is on this machine or verified.
fn exposure(url: &ServerUrl, form: &UrlForm, ssl_mode: Option<&str>) -> Option<Exposure> {
    if !url.has_password() || !url.is_remote() {
        return None;
    }
    if *form == POSTGRES {
        let mode = url.parameter("sslmode").or_else(|| url.parameter("ssl-mode")).or(ssl_mode);
        return match mode {
            Some("verify-ca" | "verify-full") => None,
            Some("require") => Some(Exposure::Unverified),
            Some("disable") => Some(Exposure::Unprotected),
            _ => Some(Exposure::Optional),
        };
    }
    match (url.scheme, url.parameter("tls")) {
        ("amqps" | "smtps", _) | ("smtp", Some("required")) => None,
        ("smtp", Some("opportunistic")) => Some(Exposure::Optional),
        _ => Some(Exposure::Unprotected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_exposed_unless_the_server_is_here_or_verified() {
        use Exposure::{Optional, Unprotected, Unverified};
        for (url, form, expected) in [
            ("postgres://u:p@db/d", &POSTGRES, Some(Optional)),
            ("postgres://u@db/d?password=p", &POSTGRES, Some(Optional)),
            ("postgres://u:p@db/d?sslmode=prefer", &POSTGRES, Some(Optional)),
            ("postgres://u:p@db/d?sslmode=disable", &POSTGRES, Some(Unprotected)),
            ("postgres://u:p@db/d?sslmode=require", &POSTGRES, Some(Unverified)),
            ("postgres://u:p@db/d?sslmode=verify-ca", &POSTGRES, None),
            ("postgres://u:p@db/d?sslmode=verify-full", &POSTGRES, None),
            ("postgres://u@db/d", &POSTGRES, None),
            ("postgres://u:p@localhost/d", &POSTGRES, None),
            ("postgres://u:p@[::1]/d", &POSTGRES, None),
            ("postgres://u:p@%2Frun%2Fpg/d", &POSTGRES, None),
            ("postgres://u:p@localhost/d?host=db", &POSTGRES, Some(Optional)),
            ("postgres://u:p@db/d?host=/run/pg", &POSTGRES, None),
            ("amqp://u:p@broker", &AMQP, Some(Unprotected)),
            ("amqp://u:p@127.0.0.2", &AMQP, None),
            ("amqps://u:p@broker", &AMQP, None),
            ("smtp://u:p@mail?tls=none", &SMTP, Some(Unprotected)),
            ("smtp://u:p@mail?tls=opportunistic", &SMTP, Some(Optional)),
            ("smtp://u:p@mail?tls=required", &SMTP, None),
            ("smtps://u:p@mail", &SMTP, None),
            ("smtp://mail", &SMTP, None),
        ] {
            let parsed = ServerUrl::parse(url, form).unwrap();
            assert_eq!(exposure(&parsed, form, None), expected, "{url}");
        }
        let url = ServerUrl::parse("postgres://u:p@db/d", &POSTGRES).unwrap();
        assert_eq!(exposure(&url, &POSTGRES, Some("verify-full")), None);
    }
}
