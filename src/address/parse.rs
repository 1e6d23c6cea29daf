//! Takes a URL apart. What does not have the exact form is an error, which contains nothing of the text.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::{
    form::UrlForm,
    url::{Host, ServerUrl},
};

/// Why a text is not a URL of a form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// There is no text.
    #[error("it is empty")]
    Empty,
    /// It has another scheme, or none.
    #[error("it must begin with {}", .0.schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or "))]
    Scheme(&'static UrlForm),
    /// A host name has other characters than letters, digits, `-`, `_` and `.`, and is no IPv6 address in brackets.
    #[error(
        "a host is neither a name nor an IP address; an IPv6 address is written in brackets, and ':', '/', '?', '#' and '@' in a password as %3A, %2F, %3F, %23 and %40"
    )]
    Host,
    /// A port is not a number.
    #[error("a port is not a number from 1 to 65535")]
    Port,
    /// There are several hosts, and the form allows one.
    #[error("it has more than one host")]
    ManyHosts,
    /// The path has other characters than letters, digits and `-`, `_`, `.`, `~`, `/`, or `%` before two digits.
    #[error(
        "a character after the host must be percent-encoded; '/', '?', '#' and '@' in a password are written as %2F, %3F, %23 and %40"
    )]
    Path,
    /// Decoded, it is not UTF-8.
    #[error("a percent-encoded part is not UTF-8")]
    NotUtf8,
    /// A parameter is unknown, has no value, or occurs twice.
    #[error("parameter {number} after '?' is unknown, has no value or occurs twice; the known ones are {}", known(.form))]
    Parameter {
        /// Its number, from 1.
        number: usize,
        /// The form.
        form: &'static UrlForm,
    },
    /// A parameter has an invalid value.
    #[error("the value of the parameter {0} is invalid")]
    Value(&'static str),
}

fn known(form: &UrlForm) -> String {
    let names: Vec<_> =
        form.parameters.iter().map(|parameter| parameter.name.trim_end_matches('[')).collect();
    let mut names = names;
    names.dedup();
    names.join(", ")
}

impl ServerUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, or that it is a list of several.
    pub fn parse(text: &str, form: &'static UrlForm) -> Result<Self, InvalidUrl> {
        parse_one(text.trim(), form)
    }

    /// Takes a list of URLs apart; it has one element if the form allows only one.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn parse_all(text: &str, form: &'static UrlForm) -> Result<Vec<Self>, InvalidUrl> {
        let text = text.trim();
        if form.many {
            split_list(text, form).into_iter().map(|url| parse_one(url.trim(), form)).collect()
        } else {
            Ok(vec![parse_one(text, form)?])
        }
    }
}

/// Divides a list before each URL: a comma alone can be in a password, or between two hosts of one URL.
fn split_list<'a>(text: &'a str, form: &UrlForm) -> Vec<&'a str> {
    let begins_url = |rest: &str| scheme(rest.trim_start(), form).is_some();
    let ends = text.match_indices(',').map(|(at, _)| at).filter(|at| begins_url(&text[at + 1..]));
    let (mut urls, mut begin) = (Vec::new(), 0);
    for end in ends {
        urls.push(&text[begin..end]);
        begin = end + 1;
    }
    urls.push(&text[begin..]);
    urls
}

/// The scheme, and what follows its slashes.
fn scheme<'a>(text: &'a str, form: &UrlForm) -> Option<(&'static str, &'a str)> {
    let (scheme, rest) = text.split_once("://")?;
    let known = form.schemes.iter().find(|known| known.eq_ignore_ascii_case(scheme))?;
    Some((known, rest))
}

fn parse_one(text: &str, form: &'static UrlForm) -> Result<ServerUrl, InvalidUrl> {
    if text.is_empty() {
        return Err(InvalidUrl::Empty);
    }
    let (scheme, rest) = scheme(text, form).ok_or(InvalidUrl::Scheme(form))?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(rest, path)| (rest, Some(path)));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (Some(user), Some(password).filter(|password| !password.is_empty())),
        None => (None, None),
    };
    let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
    if hosts.len() > 1 && !form.many {
        return Err(InvalidUrl::ManyHosts);
    }
    Ok(ServerUrl {
        form,
        scheme,
        user: user.filter(|user| !user.is_empty()).map(decoded).transpose()?,
        password: password.map(decoded).transpose()?.map(Into::into),
        hosts,
        path: path.map(checked_path).transpose()?,
        parameters: query.map_or(Ok(Vec::new()), |query| parameters(query, form))?,
    })
}

fn host(text: &str) -> Result<Host, InvalidUrl> {
    let text = text.trim();
    let (name, port) = if let Some(literal) = text.strip_prefix('[') {
        let (address, port) = literal.split_once(']').ok_or(InvalidUrl::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidUrl::Host)?;
        let port = port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(InvalidUrl::Host)?;
        (address.to_string(), port)
    } else {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let name = decoded(name)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if !name.bytes().all(is_name) {
            return Err(InvalidUrl::Host);
        }
        (name, port)
    };
    let port = match port {
        "" => None,
        port => Some(port.parse().ok().filter(|port| *port > 0).ok_or(InvalidUrl::Port)?),
    };
    Ok(Host { name, port })
}

fn checked_path(path: &str) -> Result<String, InvalidUrl> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/%+".contains(&byte);
    if path.bytes().all(is_plain) { decoded(path) } else { Err(InvalidUrl::Path) }
}

fn parameters(query: &str, form: &'static UrlForm) -> Result<Vec<(String, String)>, InvalidUrl> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for (at, pair) in query.split('&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
        let invalid = InvalidUrl::Parameter { number: at + 1, form };
        let Some((name, value)) = pair.split_once('=') else { return Err(invalid) };
        let (name, value) = (decoded(name)?, decoded(&value.replace('+', " "))?);
        let occurs_before = parameters.iter().any(|(known, _)| *known == name);
        if form.parameter(&name).is_none() || value.is_empty() || occurs_before {
            return Err(invalid);
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}

fn decoded(text: &str) -> Result<String, InvalidUrl> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| InvalidUrl::NotUtf8)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::{
        super::{AMQP, POSTGRES, SMTP, printable},
        *,
    };

    #[test]
    fn a_url_is_taken_apart() {
        let url = ServerUrl::parse(
            " POSTGRES://u%40x:p%3Ass%2Fw%C3%B6rd@[::1]:5433/a%20b?sslmode=require&options[a]=b\n",
            &POSTGRES,
        );
        let url = url.unwrap();
        assert_eq!((url.scheme, url.user.as_deref()), ("postgres", Some("u@x")));
        assert_eq!(url.password.as_ref().unwrap().expose_secret(), "p:ss/wörd");
        assert_eq!(url.hosts, [Host { name: "::1".into(), port: Some(5433) }]);
        assert_eq!(url.path.as_deref(), Some("a b"));
        assert_eq!(url.parameter("sslmode"), Some("require"));
        assert_eq!(
            url.to_string(),
            "postgres://redacted:redacted@[::1]:5433/redacted?sslmode=require&options[a]=redacted"
        );
    }

    #[test]
    fn a_list_has_several_urls_or_several_hosts() {
        let list = "amqp://u:a,b@one:1,two/v, amqps://[::2]:3";
        let urls = ServerUrl::parse_all(list, &AMQP).unwrap();
        let printed: Vec<_> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(printed, ["amqp://u:redacted@one:1,two/v", "amqps://[::2]:3"]);
        assert_eq!(urls[0].password.as_ref().unwrap().expose_secret(), "a,b");
        assert_eq!(printable(list), "amqp://u:redacted@one:1,two/v,amqps://[::2]:3");
        for list in ["smtp://one,two", "smtp://one,smtp://two"] {
            assert!(ServerUrl::parse_all(list, &SMTP).is_err(), "{list}");
        }
    }

    #[test]
    fn forms_that_servers_take_are_valid() {
        for (text, form) in [
            ("postgres:///db?host=/var/run/postgresql&user=u", &POSTGRES),
            ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/db", &POSTGRES),
            ("postgres://db.example", &POSTGRES),
            ("amqp://", &AMQP),
            ("amqp://guest:guest@127.0.0.1:5672/%2f", &AMQP),
            ("amqp://u:p@ss:w%rd@h", &AMQP),
            ("smtp://mail:25?tls=opportunistic", &SMTP),
        ] {
            assert!(ServerUrl::parse(text, form).is_ok(), "{text}");
        }
    }

    #[test]
    fn nothing_of_a_text_without_a_known_form_is_printed() {
        for text in [
            "jdbc:postgresql://u:hunter2@h/db",
            "u:hunter2@h/db",
            "hunter2",
            "amqp:u:hunter2@h",
            "amqp:/u:hunter2@h",
            "smtps:u:hunter2@h",
            "http://u:hunter2@h",
            "postgres://u:hunter2/x@h/db",
            "postgres://u:1/hunter2@h/db",
            "postgres://u:1?hunter2@h/db",
            "postgres://u:1?hunter2=1@h/db",
            "postgres://u:1#hunter2@h/db",
            "postgres://u@h/db?sslpassword=hunter2",
            "postgres://u@h/db?Password=hunter2",
            "postgres://u@h/db?hunter2",
            "postgres://u@h/db;password=hunter2",
            "postgres://u@h:hunter2/db",
            "amqp://u:hunter2@[::1/%2f",
            "amqp://u:hunter2@h:0",
            "amqp://u:hunter2@h,h2/v,u:hunter2@h3",
            "smtp://u:hunter2@h?TLS=required",
            "smtp://u:%ff@h",
        ] {
            assert!(!printable(text).contains("hunter2"), "{text}: {}", printable(text));
            for form in [&POSTGRES, &AMQP, &SMTP] {
                if let Err(error) = ServerUrl::parse_all(text, form) {
                    assert!(!error.to_string().contains("hunter2"), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn secrets_of_a_known_form_are_not_printed() {
        for text in [
            "postgres://u:hunter2@h/db?sslmode=require",
            "postgres://u@h/db?password=hunter2",
            "postgres://u@h/db?options=hunter2",
            "postgres://u@h/db?options[x]=hunter2",
            "postgres://u@h/db?sslkey=-----BEGIN%20PRIVATE%20KEY-----hunter2",
            "postgres://u@h/db?application_name=a%20hunter2",
            "postgres://u:x@hunter2@h/db",
            "amqp://u:a,hunter2@h,h2",
            "smtps://u:hunter2@h:465",
        ] {
            let printed = printable(text);
            assert!(printed.contains("://u") && !printed.contains("hunter2"), "{text}: {printed}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        let error = |text, form| ServerUrl::parse(text, form).unwrap_err().to_string();
        assert_eq!(error("", &POSTGRES), "it is empty");
        assert_eq!(error("mysql://h", &POSTGRES), "it must begin with postgres:// or postgresql://");
        assert_eq!(
            error("smtp://h?starttls=required", &SMTP),
            "parameter 1 after '?' is unknown, has no value or occurs twice; the known ones are tls"
        );
        assert_eq!(
            error("amqp://h?heartbeat=1&verify=verify_peer", &AMQP),
            "parameter 2 after '?' is unknown, has no value or occurs twice; the known ones are heartbeat, \
             frame_max, channel_max, connection_timeout, auth_mechanism, cacertfile, certfile, keyfile"
        );
        assert_eq!(error("amqp://[::g]", &AMQP), InvalidUrl::Host.to_string());
        assert_eq!(error("amqp://h:99999", &AMQP), "a port is not a number from 1 to 65535");
        assert_eq!(error("smtp://a,b", &SMTP), "it has more than one host");
    }
}
