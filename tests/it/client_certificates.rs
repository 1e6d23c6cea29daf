//! Certificates by which this program identifies itself to its servers.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use allocation::{
    adapters::rabbitmq::{RabbitConfig, RabbitTopology},
    ports::{admin::Topology as _, error::error_text},
};
use tokio::{net::TcpStream, time::timeout};

use crate::harness::{Certificates, PrivatePostgres, SOON, TestSystem, wait_until};

/// The time after which a connection that has no error is established.
const WITHOUT_REPLY: Duration = Duration::from_secs(5);

fn skip() {
    eprintln!("skipped: openssl cannot make certificates");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_accepts_a_client_certificate_in_place_of_a_password() {
    let Some(certificates) = Certificates::create() else { return skip() };
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

/// A TLS server that requires a client certificate and speaks nothing else.
struct TlsServer {
    port: u16,
    process: Child,
}

impl TlsServer {
    async fn start(certificates: &Certificates) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", &certificates.name("server.pem"), "-key", &certificates.name("server.key")])
            .args(["-CAfile", &certificates.name("ca.pem"), "-Verify", "1", "-verify_return_error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { port, process };
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
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
    let Some(certificates) = Certificates::create() else { return skip() };
    let server = TlsServer::start(&certificates).await;
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
