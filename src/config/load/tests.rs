use super::*;

fn with(toml: &str) -> Result<Settings, Vec<String>> {
    let file = File::from_str(toml, FileFormat::Toml);
    let sources = Config::builder().add_source(defaults()).add_source(file).build().unwrap();
    read(&sources).map_err(|error| error.mistakes)
}

fn mistake(toml: &str) -> String {
    let mut mistakes = with(toml).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{toml}: {mistakes:?}");
    mistakes.remove(0)
}

#[test]
fn the_defaults_are_complete_and_valid() {
    assert_eq!(with("").unwrap().worker.max_batch.get(), 500);
    assert_eq!(with("").unwrap().warnings(), [""; 0]);
}

#[test]
fn a_password_that_others_could_read_is_a_warning() {
    let settings = with(
        "[database]\nurl = \"postgres://u:hunter2@db/d?sslmode=require\"\n\
         [broker]\nurl = \"amqps://u:hunter2@a,amqp://u:hunter2@[fe80::1]:5672\"\n\
         [smtp]\nurl = \"smtp://u:hunter2@mail?tls=none\"",
    );
    let warnings = settings.unwrap().warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("database.url: the password for db goes to any server"), "{warnings:?}");
    assert!(warnings[1].starts_with("broker.url: the password for [fe80::1]:5672 goes over"), "{warnings:?}");
    assert!(warnings[2].starts_with("smtp.url: the password for mail goes over"), "{warnings:?}");
    assert!(!warnings.concat().contains("hunter2"));
}

#[test]
fn a_short_token_and_a_plain_login_are_allowed_on_this_machine() {
    with("[api]\nlisten = \"127.0.0.1:8080\"\ntoken = \"short\"").unwrap();
    with("[api]\nlisten = \"0.0.0.0:8080\"\ntoken = \"12345678901234567890\"").unwrap();
    with("[smtp]\nurl = \"smtp://u:p@localhost\"").unwrap();
    with("[api]\nlisten = \"127.9.9.9:8080\"").unwrap();
    with("[api]\nlisten = \"[::1]:8080\"").unwrap();
    with("[smtp]\nurl = \"smtp://mail.example\"").unwrap();
}

#[test]
fn only_secrets_may_be_in_files() {
    for name in ["DATABASE_URL", "AMQP_URL", "ALLOCATION__API__TOKEN", "allocation__smtp__url"] {
        assert!(is_secret(name), "{name}");
    }
    for name in ["ALLOCATION__NAMESPACE", "ALLOCATION__API__LISTEN", "ALLOCATION__DATABASE", "SMTP__URL"]
        .into_iter()
        .chain(["OTEL_EXPORTER_OTLP_ENDPOINT", "ALLOCATION__TRACES__ENDPOINT"])
    {
        assert!(!is_secret(name), "{name}");
    }
}

#[test]
fn the_error_for_an_unknown_key_names_the_nearest_known_one() {
    for (toml, error) in [
        ("[worker]\nmax_bacth = 1", "unknown setting worker.max_bacth; did you mean worker.max_batch?"),
        ("[wroker]\nprefetch = 1", "unknown setting wroker.prefetch; did you mean worker.prefetch?"),
        ("[limits]\nbody = 1", "unknown setting limits.body; did you mean limits.body_bytes?"),
        ("namespcae = \"a\"", "unknown setting namespcae; did you mean namespace?"),
        ("qqq = 1", "unknown setting qqq; config/default.toml lists every key"),
        ("worker = 1", "worker: is a section of settings and has no value"),
    ] {
        assert_eq!(mistake(toml), error);
    }
}

#[test]
fn the_error_for_an_invalid_value_names_its_key() {
    for (toml, error) in [
        ("[worker]\nmax_batch = 0", "worker.max_batch: "),
        ("[worker]\nprefetch = 70000", "worker.prefetch: "),
        ("[worker]\nhandler_timeout = \"soon\"", "worker.handler_timeout: "),
        ("[log]\nformat = \"xml\"", "log.format: "),
        ("namespace = \"a b\"", "namespace: must be"),
        ("namespace = \"\"", "namespace: must be"),
        ("[worker]\npartitions = 9", "database.max_connections: must be from 33 to 10000"),
        ("[api]\nlisten = \"somewhere\"", "api.listen: "),
        ("[api]\ntoken = \"a b\"", "api.token: must be"),
        ("[api]\ntimeout = \"0s\"", "api.timeout: must be from 1ms to 1h"),
        ("[api]\nlisten = \"0.0.0.0:8080\"", "api.token: must be set"),
        ("[api]\nlisten = \"[::]:8080\"", "api.token: must be set"),
        ("[api]\nlisten = \"[fe80::1]:8080\"", "api.token: must be set"),
        ("[api]\nlisten = \"[::ffff:127.0.0.1]:8080\"", "api.token: must be set"),
        ("[api]\nlisten = \"[::ffff:0.0.0.0]:8080\"", "api.token: must be set"),
        (
            "[api]\nlisten = \"0.0.0.0:8080\"\ntoken = \"1234567890123456789\"",
            "api.token: must have at least 20",
        ),
        ("[smtp]\nurl = \"smtp://u:p@mail.example\"", "smtp.url: a password would be sent without TLS"),
        ("[retry]\njitter = 1.0", "retry.jitter: must be"),
        ("[retry]\nmultiplier = 0.5", "retry.multiplier: must be"),
        ("[database]\nurl = \"\"", "database.url (DATABASE_URL): it is empty"),
        ("[database]\nurl = \"postgres://u@h/d?ssl=true\"", "database.url (DATABASE_URL): parameter 1"),
        ("[database]\nsession_url = \"mysql://h\"", "database.session_url: it must begin with postgres://"),
        ("[broker]\nurl = \"http://h\"", "broker.url (AMQP_URL): it must begin with amqp:// or amqps://"),
        ("[smtp]\nurl = \"smtp://h?TLS=required\"", "smtp.url: parameter 1"),
        ("[traces]\nratio = 1.1", "traces.ratio: must be from 0 to 1"),
        (
            "[traces]\nendpoint = \"h:4318\"",
            "traces.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): it must begin with http",
        ),
        (
            "[traces]\nendpoint = \"http://\"",
            "traces.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): must name a host",
        ),
        (
            "[traces]\nendpoint = \"http://u:p@h\"",
            "traces.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): must have no user",
        ),
        (
            "[traces]\nendpoint = \"http://h/?a=b\"",
            "traces.endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): parameter 1",
        ),
    ] {
        let mistake = mistake(toml);
        assert!(mistake.starts_with(error), "{toml}: {mistake}");
    }
}

/// A duration or a number that is too large would end the process later, or wait without end.
#[test]
fn every_number_and_duration_has_bounds() {
    let defaults = default_values();
    for key in keys(&defaults) {
        let (section, name) = key.split_once('.').unwrap_or(("", &key));
        let values: &[&str] = match &defaults.get::<Value>(&key).unwrap().kind {
            ValueKind::I64(_) | ValueKind::U64(_) => {
                &["0", "-1", "4294967295", "18446744073709551615", "1e30"]
            }
            ValueKind::Float(_) => &["-1.0", "1e300", "nan"],
            ValueKind::String(text) if humantime::parse_duration(text).is_ok() => {
                &["\"300000000000y\"", "\"3000y\"", "\"1\"", "\"-1s\"", "\"\""]
            }
            _ => continue,
        };
        for value in values {
            let toml = if section.is_empty() {
                format!("{name} = {value}")
            } else {
                format!("[{section}]\n{name} = {value}")
            };
            let Ok(file) = Config::builder().add_source(File::from_str(&toml, FileFormat::Toml)).build()
            else {
                continue; // No number of TOML.
            };
            drop(file);
            let mistakes = with(&toml).expect_err(&toml);
            assert!(
                mistakes.iter().any(|mistake| mistake.starts_with(&format!("{key}: "))),
                "{toml}: {mistakes:?}"
            );
        }
    }
}

#[test]
fn all_mistakes_are_reported_together() {
    let types = "qqq = 1\n[worker]\nmax_batch = 0\nprefetch = \"x\"\n[api]\nlisten = \"here\"";
    let keys = |toml: &str| {
        let mistakes = with(toml).unwrap_err();
        mistakes
            .iter()
            .map(|mistake| mistake.split([':', ';']).next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(types), ["unknown setting qqq", "api.listen", "worker.max_batch", "worker.prefetch"]);
    let rules =
        "qqq = 1\n[worker]\nhandler_timeout = \"2days\"\n[api]\ntimeout = \"0s\"\n[smtp]\nurl = \"x\"";
    assert_eq!(keys(rules), ["unknown setting qqq", "smtp.url", "worker.handler_timeout", "api.timeout"]);
}

#[test]
fn white_space_around_an_address_or_a_token_is_ignored() {
    let settings = with(
        "[database]\nurl = \" postgres://u@h/d\\n\"\n[broker]\nurl = \"amqp://h\\r\\n\"\n\
         [smtp]\nurl = \"smtp://h \"\n[api]\ntoken = \"secret\\n\"",
    );
    let settings = settings.unwrap();
    assert_eq!(settings.database.url.expose(), "postgres://u@h/d");
    assert_eq!(settings.broker.url.expose(), "amqp://h");
    assert_eq!(settings.smtp.url.expose(), "smtp://h");
    assert_eq!(settings.api.token.expose(), Some("secret"));
}

#[test]
fn a_password_is_never_printed() {
    let secrets = "[database]\nurl = \"postgres://me:hunter2@db/x?password=hunter2\"\n\
        [broker]\nurl = \"amqp://me:hunter2@a,b\"\n\
        [smtp]\nurl = \"smtps://me:hunter2@mail\"\n[api]\ntoken = \"hunter2\"";
    let settings = with(secrets).unwrap();
    let printed = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
    assert!(!printed.contains("hunter2") && printed.contains("me:redacted@db"), "{printed}");
    for url in ["", "file:outgoing/mail"] {
        let settings = with(&format!("[smtp]\nurl = \"{url}\"")).unwrap();
        assert_eq!(serde_json::to_value(&settings).unwrap()["smtp"]["url"], url);
    }
    for wrong in [
        "database = \"postgres://u:hunter2@h\"",
        "[database]\nurl = [\"hunter2\"]",
        "[database.url]\nhunter3 = \"hunter2\"",
        "[api]\ntoken = [\"hunter2\"]",
        "[database]\nurl = \"u:hunter2@h/d\"",
        "[database]\nsession_url = \"u:hunter2@h/d\"",
        "[database]\nsession_url = [\"hunter2\"]",
        "[database.session_url]\nhunter3 = \"hunter2\"",
    ] {
        let mistakes = with(wrong).unwrap_err().join("\n");
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
}

#[test]
fn a_file_that_is_not_toml_is_reported_without_its_lines() {
    let toml = "[database]\nurl = \"postgres://u:hunter2@h/d\n[worker]\n";
    let error = Config::builder().add_source(File::from_str(toml, FileFormat::Toml)).build().unwrap_err();
    let text = invalid_file(&error);
    assert!(text.contains("line 2") && !text.contains("hunter2") && !text.contains('\n'), "{text}");
}
