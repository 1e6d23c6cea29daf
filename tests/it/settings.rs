//! Settings from the environment and from a file, and what the command line says about mistakes in them.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, process::Command};

use crate::harness::CliOutput;

/// Prints the settings with further variables in the environment.
fn config(variables: &[(&str, &OsStr)]) -> CliOutput {
    let mut program = Command::new(env!("CARGO_BIN_EXE_allocation"));
    program.args(["--json", "config"]).env_clear().envs(variables.iter().copied());
    CliOutput::of(program.output().unwrap())
}

fn with(name: &str, value: &str) -> CliOutput {
    config(&[(name, OsStr::new(value))])
}

#[test]
fn a_value_out_of_bounds_is_a_usage_error_that_names_the_bounds() {
    for (variable, value, error) in [
        ("WORKER__HANDLER_TIMEOUT", "300000000000y", "worker.handler_timeout: must be from 0s to 1day"),
        ("DATABASE__MAX_CONNECTIONS", "4294967295", "database.max_connections: must be from 12 to 10000"),
        ("WORKER__MAX_BATCH", "100000000", "worker.max_batch: must be from 1 to 10000"),
        ("RETENTION__INBOX", "3000y", "retention.inbox: must be from 0s to"),
        ("DATABASE__TIMEOUT", "0s", "database.timeout: must be from 100ms to 1h"),
        ("METRICS__INTERVAL", "1ms", "metrics.interval: must be from 100ms to 1h"),
    ] {
        let output = with(&format!("ALLOCATION__{variable}"), value).exits(2);
        output.assert_error(error);
        assert!(!output.text().contains("panicked"), "{}", output.text());
    }
}

#[test]
fn every_mistake_has_a_line() {
    let output = config(&[
        ("ALLOCATION__WORKER__MAX_BATCH", OsStr::new("0")),
        ("ALLOCATION__WROKER__PREFETCH", OsStr::new("1")),
        ("ALLOCATION__API__LISTEN", OsStr::new("here")),
        ("ALLOCATION__LOG__FORMAT", OsStr::new("xml")),
    ]);
    let output = output.exits(2);
    let named: Vec<_> =
        output.stderr().lines().map(|line| line.split([':', ';']).nth(1).unwrap().trim()).collect();
    assert_eq!(named, ["unknown setting wroker.prefetch", "api.listen", "log.format", "worker.max_batch"]);
}

/// A variable that is made from a file ends with a line end.
#[test]
fn white_space_around_a_value_is_ignored() {
    for (variable, value, key, expected) in [
        ("DATABASE_URL", "postgres://u@h/d\n", "/database/url", "postgres://u@h/d"),
        ("AMQP_URL", " amqp://h/v\r\n", "/broker/url", "amqp://h/v"),
        ("ALLOCATION__DATABASE__SESSION_URL", " postgres://h\n", "/database/session_url", "postgres://h"),
        ("ALLOCATION__SMTP__URL", "\tsmtp://h\n", "/smtp/url", "smtp://h"),
        ("ALLOCATION__NAMESPACE", "shop\n", "/namespace", "shop"),
        ("ALLOCATION__WORKER__HANDLER_TIMEOUT", "5s\n", "/worker/handler_timeout", "5s"),
        ("ALLOCATION__API__LISTEN", "[::1]:80\n", "/api/listen", "[::1]:80"),
    ] {
        let settings = with(variable, value).exits(0).json();
        assert_eq!(settings.pointer(key).unwrap(), expected, "{variable}");
    }
    let settings = with("ALLOCATION__WORKER__MAX_BATCH", " 7\n").exits(0).json();
    assert_eq!(settings["worker"]["max_batch"], 7);
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error_that_does_not_repeat_it() {
    for variable in ["DATABASE_URL", "AMQP_URL", "ALLOCATION__API__TOKEN"] {
        let output = config(&[(variable, OsStr::from_bytes(b"hunter2\xff"))]).exits(2);
        output.assert_error(&format!("the variable {variable} is not UTF-8"));
        assert!(!output.text().contains("hunter2"), "{}", output.text());
    }
}

#[test]
fn an_empty_address_is_an_error() {
    with("DATABASE_URL", "").exits(2).assert_error("database.url (DATABASE_URL): it is empty");
    with("AMQP_URL", " \n").exits(2).assert_error("broker.url (AMQP_URL): it is empty");
}

/// A password or token in the environment of a process can be read by tools that list processes of a container.
#[test]
fn a_secret_can_be_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().as_os_str();
    std::fs::write(file.path(), "amqps://u:hunter2@broker:5671/v\n").unwrap();
    for name in ["AMQP_URL_FILE", "ALLOCATION__BROKER__URL_FILE"] {
        let output = config(&[(name, path)]).exits(0);
        assert_eq!(output.json()["broker"]["url"], "amqps://u:redacted@broker:5671/v", "{name}");
    }
    std::fs::write(file.path(), "a-token-of-twenty-one").unwrap();
    let listen = ("ALLOCATION__API__LISTEN", OsStr::new("0.0.0.0:80"));
    let output = config(&[("ALLOCATION__API__TOKEN_FILE", path), listen]).exits(0);
    assert_eq!(output.json()["api"]["token"], "redacted");
    with("ALLOCATION__API__TOKEN_FILE", "/no/such/file").exits(2).assert_error("ALLOCATION__API__TOKEN_FILE");
    with("ALLOCATION__NAMESPACE_FILE", "/dev/null").exits(2).assert_error("unknown setting namespace_file");
}

#[test]
fn config_warns_of_passwords_that_others_could_read() {
    let output = config(&[
        ("DATABASE_URL", OsStr::new("postgres://u:hunter2@db.example/d")),
        ("ALLOCATION__SMTP__URL", OsStr::new("smtp://u:hunter2@mail.example?tls=none")),
    ]);
    let output = output.exits(0);
    for warning in
        ["warning: database.url: the password for db.example", "warning: smtp.url: the password for"]
    {
        output.assert_error(warning);
    }
    assert!(!output.text().contains("hunter2"));
    with("ALLOCATION__SMTP__URL", "smtp://u:hunter2@mail.example")
        .exits(2)
        .assert_error("smtp.url: a password");
}
