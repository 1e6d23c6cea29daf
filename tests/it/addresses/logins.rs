//! Logins: servers that record what they receive.

use std::{io, time::Duration};

use allocation::{
    adapters::{
        mail::{MailAddresses, SmtpNotifier},
        postgres::PgStore,
        rabbitmq::RabbitConfig,
    },
    pg::PgConfig,
    ports::{notifier::Notifier as _, store::Store as _},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A user and a password of characters that separate the parts of a URL, and the same as it is written in one.
const LOGIN: (&str, &str) = ("sh@p:1", "p/a?s#s@w:ö%rd&, ");
const IN_URL: &str = "sh%40p%3A1:p%2Fa%3Fs%23s%40w%3A%C3%B6%25rd%26%2C%20";
const RECEIVED_WITHIN: Duration = Duration::from_secs(10);

/// A server that holds one conversation, and what it received.
async fn server<F: Future<Output = io::Result<Vec<u8>>> + Send>(
    converse: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, received) = mpsc::channel(1);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        sender.send(converse(client).await.unwrap()).await
    });
    (address, received)
}

async fn received(mut server: mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(RECEIVED_WITHIN, server.recv()).await.unwrap().unwrap()
}

/// Reads until the end of the login.
async fn read_until(client: &mut TcpStream, is_end: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    while !is_end(&received) {
        received.push(client.read_u8().await?);
    }
    Ok(received)
}

/// Asks for a password in plain text.
async fn postgres(mut client: TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::try_from(client.read_i32().await?).unwrap();
    let mut startup = vec![0; length - 4];
    client.read_exact(&mut startup).await?;
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    client.read_u8().await?;
    let length = usize::try_from(client.read_i32().await?).unwrap();
    let mut password = vec![0; length - 4];
    client.read_exact(&mut password).await?;
    Ok([startup, password].concat())
}

#[tokio::test]
async fn an_encoded_password_is_decoded_for_the_database() {
    let (address, server) = server(postgres).await;
    let url = format!("postgres://{IN_URL}@{address}/d%2Fb?sslmode=disable");
    let access = PgConfig::new(&url, 1, Duration::from_secs(1)).unwrap();
    assert!(PgStore::new(access.pool(), &access, std::sync::Arc::default()).probe().await.is_err());
    let received = String::from_utf8(received(server).await).unwrap();
    assert!(received.contains(&format!("user\0{}\0database\0d/b\0", LOGIN.0)), "{received:?}");
    assert!(received.ends_with(&format!("\0{}\0", LOGIN.1)), "{received:?}");
}

/// Connection.Start with the mechanism PLAIN.
const AMQP_START: &[u8] = b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce";

async fn amqp(mut client: TcpStream) -> io::Result<Vec<u8>> {
    client.read_exact(&mut [0; 8]).await?;
    client.write_all(AMQP_START).await?;
    read_until(&mut client, |received| received.ends_with(b"\xce")).await
}

#[tokio::test]
async fn an_encoded_password_is_decoded_for_the_broker() {
    let (address, server) = server(amqp).await;
    let broker = RabbitConfig::new(&format!("amqp://{IN_URL}@{address}/%2f"), "test").unwrap();
    assert!(broker.connect("a test").await.is_err());
    let expected = format!("\0{}\0{}", LOGIN.0, LOGIN.1);
    let received = received(server).await;
    let found = received.windows(expected.len()).any(|bytes| bytes == expected.as_bytes());
    assert!(found, "{:?}", String::from_utf8_lossy(&received));
}

async fn smtp(mut client: TcpStream) -> io::Result<Vec<u8>> {
    client.write_all(b"220 mail.test ESMTP\r\n").await?;
    let is_line = |received: &[u8]| received.ends_with(b"\r\n");
    read_until(&mut client, is_line).await?;
    client.write_all(b"250-mail.test\r\n250 AUTH PLAIN\r\n").await?;
    read_until(&mut client, is_line).await
}

#[tokio::test]
async fn an_encoded_password_is_decoded_for_the_mail_server() {
    let (address, server) = server(smtp).await;
    let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
    let notifier = SmtpNotifier::new(&format!("smtp://{IN_URL}@{address}"), addresses).unwrap();
    assert!(notifier.probe().await.is_err());
    let login = BASE64_STANDARD.encode(format!("\0{}\0{}", LOGIN.0, LOGIN.1));
    assert_eq!(String::from_utf8(received(server).await).unwrap(), format!("AUTH PLAIN {login}\r\n"));
}
