//! Certificates: of servers, which must be valid, and of this program, by which it identifies itself.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use allocation::{
    adapters::{
        mail::{MailAddresses, SmtpNotifier},
        rabbitmq::{RabbitConfig, RabbitTopology},
    },
    ports::{admin::Topology as _, error::error_text, notifier::Notifier as _},
};
use tokio::{net::TcpStream, time::timeout};

use crate::harness::{Certificates, MailServer, PrivatePostgres, SOON, TestSystem, create_batch, wait_until};

/// An address of this machine that the certificates do not name.
const UNNAMED_ADDRESS: &str = "127.0.0.2";

/// The time after which a connection that has no error is established.
const WITHOUT_REPLY: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_database_accepts_a_client_certificate_in_place_of_a_password() {
    let Some(certificates) = Certificates::create() else { return };
    let system = TestSystem::new("the_database_accepts_a_client_certificate_in_place_of_a_password").await;
    let server = PrivatePostgres::start_with_certificates(&certificates).await;
    let url = server.url("postgres", "certified");
    system.cli_on(&url, &["migrate"]).await.exits(0);
    let (plain, _) = url.split_once('?').unwrap();
    let without = format!("{plain}?sslmode=verify-full&sslrootcert={}", certificates.name("ca.pem"));
    let refused = system.cli_on(&without, &["migrate"]).await.exits(1);
    refused.assert_error("certificate");
    system.close().await;
}

/// A TLS server that prints what it receives and answers nothing.
struct TlsServer {
    port: u16,
    process: Child,
}

impl TlsServer {
    async fn start(certificates: &Certificates, options: &[&str]) -> Self {
        Self::start_on("127.0.0.1", certificates, options).await
    }

    async fn start_on(address: &str, certificates: &Certificates, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("openssl")
            .args(["s_server", "-accept", &format!("{address}:{port}")])
            .args(["-cert", &certificates.name("server.pem"), "-key", &certificates.name("server.key")])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { port, process };
        let listens = async || TcpStream::connect((address, port)).await.is_ok();
        wait_until("the server listens", SOON, listens).await;
        server
    }

    /// Stops the server and returns what it has printed.
    fn stop(mut self) -> String {
        let _ = self.process.kill();
        let output = self.process.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_receives_the_client_certificate_of_the_url() {
    let Some(certificates) = Certificates::create() else { return };
    let authority = certificates.name("ca.pem");
    let options = ["-CAfile", &authority, "-Verify", "1", "-verify_return_error"];
    let server = TlsServer::start(&certificates, &options).await;
    let file = |name: &str| certificates.name(name);
    let connect = async |client: &str| {
        let url = format!("amqps://localhost:{}/%2f?cacertfile={}{client}", server.port, file("ca.pem"));
        let topology = RabbitTopology(RabbitConfig::new(&url, "ns").unwrap());
        match timeout(WITHOUT_REPLY, topology.queue_depths()).await {
            Ok(depths) => error_text(&depths.unwrap_err()),
            Err(_) => String::new(),
        }
    };
    let missing = connect("&certfile=/no/such.pem&keyfile=/no/such.key").await;
    assert!(missing.contains("cannot read certfile \"/no/such.pem\": "), "{missing}");
    assert_ne!(connect("").await, "", "the server requires a certificate");
    // The server speaks no AMQP: nothing follows the handshake.
    let client = format!("&certfile={}&keyfile={}", file("client.pem"), file("client.key"));
    assert_eq!(connect(&client).await, "");
    let printed = server.stop();
    assert!(printed.contains("peer did not return a certificate"), "{printed}");
    let subject = printed.replace(" = ", "=");
    assert!(subject.contains("CN=postgres"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_server_with_a_certificate_of_an_unknown_authority() {
    let Some(certificates) = Certificates::create() else { return };
    let server = TlsServer::start(&certificates, &[]).await;
    let url = format!("amqps://u:hunter2@localhost:{}", server.port);
    let topology = RabbitTopology(RabbitConfig::new(&url, "ns").unwrap());
    let broker = error_text(&topology.queue_depths().await.unwrap_err());
    assert!(broker.contains("certificate"), "{broker}");
    let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
    let url = format!("smtps://u:hunter2@localhost:{}", server.port);
    let notifier = SmtpNotifier::new(&url, addresses).unwrap();
    let mail = error_text(&notifier.probe().await.unwrap_err());
    assert!(mail.contains("certificate") || mail.contains("UnknownIssuer"), "{mail}");
    let printed = server.stop();
    for sent in ["AMQP", "EHLO", "hunter2"] {
        assert!(!printed.contains(sent), "{sent}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_certificate_of_an_unknown_authority_is_refused_before_the_login() {
    let Some(certificates) = Certificates::create() else { return };
    let system =
        TestSystem::new("a_database_with_a_certificate_of_an_unknown_authority_is_refused_before_the_login")
            .await;
    let server = PrivatePostgres::start_with_certificates(&certificates).await;
    let url = server.url("postgres", "postgres");
    let (plain, _) = url.split_once('?').unwrap();
    for mode in ["verify-ca", "verify-full"] {
        let refused = system.cli_on(&format!("{plain}?sslmode={mode}"), &["migrate"]).await.exits(1);
        assert!(refused.text().contains("UnknownIssuer"), "{mode}: {}", refused.text());
    }
    let misspelt = system.cli_on(&format!("{plain}?sslmode=verify_full"), &["migrate"]).await;
    assert_ne!(misspelt.code, 0, "{}", misspelt.text());
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_server_whose_certificate_has_another_name() {
    let Some(certificates) = Certificates::create() else { return };
    let name = "nothing_is_sent_to_a_server_whose_certificate_has_another_name";
    let system = TestSystem::new(name).await;
    let server = PrivatePostgres::start_with_certificates(&certificates).await;
    let url = server.url("postgres", "certified");
    for mode in ["verify-ca", "verify-full"] {
        let url = url.replace("127.0.0.1", UNNAMED_ADDRESS).replace("verify-full", mode);
        let refused = system.cli_on(&url, &["migrate"]).await.exits(1);
        refused.assert_error("certificate not valid for name");
    }
    let server = TlsServer::start_on(UNNAMED_ADDRESS, &certificates, &[]).await;
    let (port, authority) = (server.port, certificates.name("ca.pem"));
    let url = format!("amqps://u:hunter2@{UNNAMED_ADDRESS}:{port}/%2f?cacertfile={authority}");
    let topology = RabbitTopology(RabbitConfig::new(&url, "ns").unwrap());
    let refused = error_text(&topology.queue_depths().await.unwrap_err());
    assert!(refused.contains("certificate not valid for name"), "{refused}");
    let printed = server.stop();
    assert!(!printed.contains("AMQP"), "{printed}");
    system.close().await;
}

/// An attacker between this program and the server can remove the offer from the server's answer.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_mail_server_that_does_not_offer_the_required_encryption() {
    let server = MailServer::start().await;
    let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
    let url = format!("smtp://u:hunter2@{}?tls=required", server.address);
    let notifier = SmtpNotifier::new(&url, addresses).unwrap();
    let refused = error_text(&notifier.probe().await.unwrap_err());
    assert!(refused.contains("STARTTLS"), "{refused}");
    let verbs = server.script().verbs.clone();
    assert!(verbs.contains(&"EHLO".to_owned()), "{verbs:?}");
    assert!(!verbs.iter().any(|verb| ["AUTH", "MAIL"].contains(&verb.as_str())), "{verbs:?}");
}

/// Spans go over TLS to a collector whose authority the system knows: here that of `SSL_CERT_FILE`. To another one nothing is
/// sent.
#[tokio::test(flavor = "multi_thread")]
async fn spans_are_exported_over_tls_to_a_known_authority_only() {
    let Some(certificates) = Certificates::create() else { return };
    let system = TestSystem::new("spans_are_exported_over_tls_to_a_known_authority_only").await;
    let authority = certificates.name("ca.pem");
    for (number, known) in [true, false].into_iter().enumerate() {
        let server = TlsServer::start(&certificates, &[]).await;
        let endpoint = format!("https://localhost:{}", server.port);
        let mut settings =
            vec![("ALLOCATION__TRACES__ENDPOINT", &*endpoint), ("ALLOCATION__TRACES__RATIO", "1")];
        if known {
            settings.push(("SSL_CERT_FILE", &*authority));
        }
        let worker = system.worker_with(&settings);
        system.sender.send(&create_batch(&format!("b-{number}"), "LAMP", 1)).await;
        system.wait_drained(number + 1).await;
        worker.terminate().await;
        let printed = server.stop();
        assert_eq!(printed.contains("POST /v1/traces HTTP/1.1"), known, "{printed}");
    }
    system.close().await;
}
