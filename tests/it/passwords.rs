//! The chain of an error contains no password of a URL, even if a server repeats it.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use allocation::{
    adapters::{
        mail::{MailAddresses, SmtpNotifier},
        postgres::PgStore,
        rabbitmq::{RabbitConfig, RabbitTopology},
    },
    pg::PgConfig,
    ports::{
        admin::Topology as _,
        error::{error_chain, error_text},
        notifier::Notifier as _,
        store::Store as _,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use url::Url;

use crate::harness::amqp_url;

const PASSWORD: &str = "correct-horse";

/// Asserts that the chain contains `cause` and not the password.
fn assert_no_password(error: &dyn Error, cause: &str) {
    let texts = [error_chain(error), vec![error_text(error)]].concat();
    assert!(texts.len() >= 2 && texts[0].contains(cause), "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains(PASSWORD)), "{texts:?}");
}

/// Serves connections until the test ends.
async fn serve<F: Future<Output = io::Result<()>> + Send>(
    converse: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let _ = converse(client).await;
        }
    });
    address
}

/// Requests a password as PostgreSQL does, and rejects it with the password in the detail.
async fn reject_as_postgres(mut client: TcpStream) -> io::Result<()> {
    let length = client.read_i32().await?;
    client.read_exact(&mut vec![0; usize::try_from(length).unwrap() - 4]).await?;
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    client.read_u8().await?;
    let length = client.read_i32().await?;
    let mut password = vec![0; usize::try_from(length).unwrap() - 4];
    client.read_exact(&mut password).await?;
    assert_eq!(password, format!("{PASSWORD}\0").into_bytes());
    let fields =
        format!("SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0Dthe password was {PASSWORD}\0\0");
    client.write_all(b"E").await?;
    client.write_i32(i32::try_from(fields.len()).unwrap() + 4).await?;
    client.write_all(fields.as_bytes()).await
}

#[tokio::test]
async fn a_password_that_postgres_rejects_is_in_no_error_chain() {
    let server = serve(reject_as_postgres).await;
    let url = format!("postgres://allocation:{PASSWORD}@{server}/allocation?sslmode=disable");
    let config = PgConfig::new(&url, 1, Duration::from_secs(10)).unwrap();
    let error = PgStore::new(config.pool(), &config, Arc::default()).probe().await.unwrap_err();
    assert_no_password(&error, "password authentication failed (SQLSTATE 28P01)");
}

#[tokio::test]
async fn a_password_that_rabbitmq_rejects_is_in_no_error_chain() {
    let mut url = Url::parse(&amqp_url()).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    let broker = RabbitConfig::new(url.as_str(), "test").unwrap();
    let error = RabbitTopology(broker).queue_depths().await.unwrap_err();
    assert_no_password(&error, "ACCESS_REFUSED");
}

/// The client library repeats such a URL in its error.
#[test]
fn the_error_of_an_amqp_url_without_a_host_has_no_password() {
    let error = RabbitConfig::new(&format!("amqp:guest:{PASSWORD}@broker"), "test").unwrap_err();
    assert_no_password(&error, "amqp://");
}

/// Rejects every login as a mail server does.
async fn reject_as_mail_server(client: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 mail.test ESMTP\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let reply: &[u8] = match line.split(' ').next() {
            Some("EHLO") => b"250-mail.test\r\n250 AUTH PLAIN\r\n",
            Some("AUTH") => b"535 5.7.8 Authentication failed\r\n",
            _ => b"221 Bye\r\n",
        };
        writer.write_all(reply).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_password_that_the_mail_server_rejects_is_in_no_error_chain() {
    let server = serve(reject_as_mail_server).await;
    let url = format!("smtp://allocation:{PASSWORD}@{server}");
    let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
    let notifier = SmtpNotifier::new(&url, addresses).unwrap();
    assert_no_password(&notifier.probe().await.unwrap_err(), "Authentication failed");
}
