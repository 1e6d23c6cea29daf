//! What must hold for any settings.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use crate::{
    address::{AMQP, POSTGRES, SMTP, ServerUrl, printable},
    config::Settings,
};

use super::common::assert_printable;

/// Between the file and the environment.
const GROUP_SEPARATOR: u8 = 0x1d;
const REDACTED: &str = "redacted";
const NO_URL: &str = "(not a URL of a known form)";

pub(super) fn check(data: &[u8]) {
    let (file, environment) = match data.iter().position(|byte| *byte == GROUP_SEPARATOR) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let variable = |line: &[u8]| -> Option<(OsString, OsString)> {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let [name, value] = [&line[..at], &line[at + 1..]].map(|text| OsStr::from_bytes(text).to_owned());
        Some((name, value))
    };
    let variables = || environment.split(|byte| *byte == b'\n').filter_map(variable);
    for (_, value) in variables() {
        check_address(&value.to_string_lossy());
    }
    match Settings::from_text(&String::from_utf8_lossy(file), variables()) {
        Ok(settings) => check_accepted(&settings),
        Err(error) => {
            assert!(!error.mistakes.is_empty(), "a mistake is named");
            assert!(error.mistakes.iter().all(|mistake| !mistake.trim().is_empty()), "{error:?}");
        }
    }
}

/// Accepted settings are printed without secrets, and keep their rules.
fn check_accepted(settings: &Settings) {
    let printed = serde_json::to_value(settings).expect("settings are printed as JSON");
    let text =
        |pointer: &str| printed.pointer(pointer).and_then(|value| value.as_str()).expect("it is a text");
    for (pointer, url) in [
        ("/database/url", &settings.database.url),
        ("/database/session_url", &settings.database.session_url),
        ("/broker/url", &settings.broker.url),
        ("/smtp/url", &settings.smtp.url),
    ] {
        assert_eq!(text(pointer), printable(url.expose()), "{pointer}");
        check_address(url.expose());
    }
    if settings.api.token.expose().is_some() {
        assert_eq!(text("/api/token"), REDACTED);
    }
    assert!(settings.api.token.expose().is_some() || settings.api.listen.ip().is_loopback());
}

/// A printed address has no secret, and is printed in the same way again.
fn check_address(text: &str) {
    let printed = printable(text);
    if text.trim().is_empty() || text.trim().starts_with("file:") || printed == NO_URL {
        return;
    }
    assert_printable_address(&printed);
    let urls =
        [&POSTGRES, &AMQP, &SMTP].into_iter().find_map(|form| ServerUrl::parse_all(&printed, form).ok());
    let Some(urls) = urls else {
        // The name of an option of the server may be redacted, too, and is then no known parameter.
        assert!(printed.contains("redacted=redacted"), "a printed address is an address: {printed}");
        return;
    };
    for url in urls {
        use secrecy::ExposeSecret as _;
        assert!(url.password.is_none_or(|password| password.expose_secret() == REDACTED), "{printed}");
        let is_secret =
            |name: &str| name == "password" || name.contains("key") || name.starts_with("options");
        assert!(
            url.parameters.iter().all(|(name, value)| !is_secret(name) || value == REDACTED),
            "{printed}"
        );
    }
}

fn assert_printable_address(printed: &str) {
    assert_printable(&printed.chars().take(2000).collect::<String>());
}
