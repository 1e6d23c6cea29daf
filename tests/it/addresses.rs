//! Addresses of servers: passwords that are never printed, IPv6, several nodes of one broker, and encoded passwords.

mod logins;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use allocation::{
    adapters::{
        mail::{MailAddresses, SmtpNotifier},
        rabbitmq::RabbitConfig,
    },
    ports::notifier::Notifier as _,
};
use url::Url;

use crate::harness::{
    CliOutput, DRAINS_WITHIN, MailServer, Proxy, TestSystem, allocate, amqp_url, create_batch, wait_until,
};

const SETTINGS: [&str; 4] =
    ["DATABASE_URL", "ALLOCATION__DATABASE__SESSION_URL", "AMQP_URL", "ALLOCATION__SMTP__URL"];
/// Texts that are no URL of a known form, or have a parameter that no driver knows.
const UNKNOWN_FORMS: [&str; 14] = [
    "jdbc:postgresql://u:hunter2@h/db",
    "u:hunter2@h/db",
    "hunter2",
    "amqp:u:hunter2@h",
    "smtps:u:hunter2@h",
    "https://u:hunter2@h",
    "postgres://u:hunter2/@h/db",
    "postgres://u:1/hunter2@h/db",
    "postgres://u@h:hunter2/db",
    "postgres://u@h/db?sslpassword=hunter2",
    "postgres://u@h/db?ssl=true&password=hunter2",
    "amqp://u:hunter2@h?verify=verify_peer",
    "amqp://u:hunter2@[::g]/",
    "smtp://u:hunter2@h?TLS=required",
];

fn call(arguments: &[&str], variable: &str, value: &str) -> CliOutput {
    let mut program = Command::new(env!("CARGO_BIN_EXE_allocation"));
    program.args(arguments).env_clear().env(variable, value);
    CliOutput::of(program.output().unwrap())
}

#[test]
fn nothing_of_an_address_without_a_known_form_is_printed() {
    for setting in SETTINGS {
        for address in UNKNOWN_FORMS {
            for arguments in [&["config"][..], &["--json", "config"], &["status"], &["run"], &["migrate"]] {
                let output = call(arguments, setting, address).exits(2);
                assert!(!output.text().contains("hunter2"), "{arguments:?}: {}", output.text());
                assert!(
                    output.stderr().contains(setting.rsplit("__").next().unwrap())
                        || setting.starts_with("ALLOCATION")
                );
            }
        }
    }
    let section = call(&["config"], "ALLOCATION__DATABASE", "postgres://u:hunter2@h/db").exits(2);
    assert!(!section.text().contains("hunter2"), "{}", section.text());
}

#[test]
fn a_file_with_a_mistake_is_not_repeated() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[database]\nurl = \"postgres://u:hunter2@h/db\n").unwrap();
    let arguments = ["--config", file.path().to_str().unwrap(), "config"];
    let output = call(&arguments, "LANG", "C").exits(2);
    output.assert_error("line 2");
    assert!(!output.text().contains("hunter2"), "{}", output.text());
}

/// The servers do not exist, and their names are in the errors.
#[test]
fn the_password_of_an_address_is_in_no_output() {
    for (setting, address) in [
        ("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db?password=hunter2"),
        ("ALLOCATION__DATABASE__SESSION_URL", "postgres://u:hunter2@127.0.0.1:1/db?sslkey=hunter2"),
        ("AMQP_URL", "amqp://u:hunter2@127.0.0.1:1,[::1]:1/%2f"),
        ("ALLOCATION__SMTP__URL", "smtps://u:hunter2@127.0.0.1:1"),
    ] {
        let printed = call(&["config"], setting, address).exits(0);
        assert!(printed.stdout().contains("u:redacted@127.0.0.1:1"), "{}", printed.text());
        let status = call(&["--json", "status"], setting, address);
        let mut run = Command::new(env!("CARGO_BIN_EXE_allocation"));
        let run =
            run.arg("run").env_clear().env(setting, address).env("DATABASE_URL", "postgres://127.0.0.1:1/d");
        let run = run
            .env("ALLOCATION__LOG__FILTER", "trace")
            .env(setting, address)
            .env("ALLOCATION__API__LISTEN", "127.0.0.1:0");
        let mut process = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = process.id();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            let _ = Command::new("kill").arg(pid.to_string()).status();
        });
        let log = std::io::read_to_string(process.stderr.take().unwrap()).unwrap();
        process.wait().unwrap();
        for text in [printed.text(), status.text(), log] {
            assert!(!text.contains("hunter2"), "{setting}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_reached_by_ipv6_addresses() {
    let system = TestSystem::new("servers_are_reached_by_ipv6_addresses").await;
    let (broker, database) =
        (Proxy::on_ipv6_to(&amqp_url(), 5672).await, Proxy::on_ipv6_to(&system.database_url(), 5432).await);
    assert!(broker.url().contains("@[::1]:") && database.url().contains("[::1]:"));
    let environment = [("AMQP_URL", broker.url()), ("DATABASE_URL", database.url())];
    for command in [["migrate"], ["topology"], ["status"]] {
        system.cli_with(&command, &environment).await.exits(0);
    }
    assert!(broker.connection_attempts() > 0 && database.connection_attempts() > 0);
    let listen = "[::1]:0";
    let port = std::net::TcpListener::bind(listen).unwrap().local_addr().unwrap().to_string();
    let api = system.start(
        &["run", "--only", "worker,relay,api"],
        &[environment[0], environment[1], ("ALLOCATION__API__LISTEN", &port)],
    );
    let client = crate::harness::Client::of(port.parse().unwrap());
    client.wait_until_ready().await;
    system.sender.send(&create_batch("b-1", "LAMP", 10)).await;
    system.settled(1).await;
    client.get("/availability/LAMP").await.expect_status(200);
    system.close_after([api]).await;
}

/// The address that was named, and no other one.
#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_without_a_broker_is_not_this_machine() {
    let system = TestSystem::new("an_ipv6_address_without_a_broker_is_not_this_machine").await;
    let broker = [("AMQP_URL", "amqp://guest:guest@[::2]:5672/%2f")];
    let status = system.cli_with(&["--json", "status"], &broker).await.exits(1).json();
    assert_ne!(status["broker"], "ok");
    system.close().await;
}

#[tokio::test]
async fn mail_is_sent_to_an_ipv6_address() {
    let server = MailServer::start().await;
    let proxy = Proxy::on_ipv6_to(&format!("smtp://{}", server.address), 25).await;
    let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
    SmtpNotifier::new(proxy.url(), addresses).unwrap().probe().await.unwrap();
}

/// The URL of several nodes, of which each is a proxy.
fn list_of(nodes: &[&Proxy]) -> String {
    nodes.iter().map(|node| node.url().to_owned()).collect::<Vec<_>>().join(",")
}

/// The same as one URL with several hosts.
fn hosts_of(nodes: &[&Proxy]) -> String {
    let hosts: Vec<_> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", Url::parse(node.url()).unwrap().port().unwrap()))
        .collect();
    format!("amqp://guest:guest@{}/%2f", hosts.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_begin_with_a_random_node_and_try_the_others() {
    let (one, other) = (Proxy::to(&amqp_url(), 5672).await, Proxy::to(&amqp_url(), 5672).await);
    for list in [list_of(&[&one, &other]), hosts_of(&[&one, &other])] {
        let before = (one.connection_attempts(), other.connection_attempts());
        let broker = RabbitConfig::new(&list, "test").unwrap();
        for _ in 0..30 {
            broker.connect("a test").await.unwrap();
        }
        assert!(one.connection_attempts() > before.0 && other.connection_attempts() > before.1);
    }
    one.refuse(true);
    let broker = RabbitConfig::new(&list_of(&[&one, &other]), "test").unwrap();
    for _ in 0..10 {
        broker.connect("a test").await.unwrap();
    }
    let nowhere = RabbitConfig::new("amqp://127.0.0.1:1,[::1]:1", "test").unwrap();
    let error = allocation::ports::error::error_text(&nowhere.connect("a test").await.unwrap_err());
    assert!(error.contains("127.0.0.1:1: ") && error.contains("[::1]:1: "), "{error}");
}

/// A node that accepts connections and does not reply costs a part of the time only.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_is_given_up_for_the_next_one() {
    let (frozen, other) = (Proxy::to(&amqp_url(), 5672).await, Proxy::to(&amqp_url(), 5672).await);
    frozen.freeze();
    let broker = RabbitConfig::new(&list_of(&[&frozen, &other]), "test").unwrap();
    let begin = Instant::now();
    while frozen.connection_attempts() == 0 {
        broker.connect("a test").await.unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_continues_on_another_node() {
    let system = TestSystem::new("work_continues_on_another_node").await;
    system.expect_redeliveries();
    let nodes = [Proxy::to(&amqp_url(), 5672).await, Proxy::to(&amqp_url(), 5672).await];
    let list = list_of(&[&nodes[0], &nodes[1]]);
    let worker = system.worker_with(&[("AMQP_URL", &list)]);
    system.sender.send(&create_batch("b-1", "LAMP", 100)).await;
    system.wait_handled(1).await;
    let mut handled = 1;
    for lost in [0, 1, 0] {
        nodes[lost].refuse(true);
        nodes[lost].cut();
        system.sender.send(&allocate(&format!("o-{handled}"), "LAMP", 1)).await;
        handled += 1;
        system.wait_handled(handled).await;
        nodes[lost].refuse(false);
    }
    let published = async || system.count("select count(*) from outbox").await == 0;
    wait_until("the events are published", DRAINS_WITHIN, published).await;
    system.settled(handled).await;
    system.close_after([worker]).await;
}
