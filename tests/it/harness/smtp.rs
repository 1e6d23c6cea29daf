//! A mail server with scripted replies, which can be stopped and restarted.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    task::{JoinHandle, JoinSet},
};

use super::{Running, TestSystem};

impl TestSystem {
    /// Starts a process with roles, among them the notifier, that sends mail to a server.
    pub(crate) fn notifier(&self, roles: &str, server: &MailServer, settings: &[(&str, &str)]) -> Running {
        let url = format!("smtp://{}", server.address);
        let environment = [settings, &[("ALLOCATION__SMTP__URL", url.as_str())]].concat();
        self.start(&["run", "--only", roles], &environment)
    }
}

/// An accepted mail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    data: String,
}

impl Mail {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (headers, _) = self.data.split_once("\r\n\r\n")?;
        headers.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> &str {
        self.data.split_once("\r\n\r\n").map_or("", |(_, text)| text)
    }
}

/// The accepted mails, and what the server rejects.
#[derive(Default)]
pub(crate) struct SmtpScript {
    /// The verbs of all commands that were received.
    pub(crate) verbs: Vec<String>,
    pub(crate) accepted: Vec<Mail>,
    /// Recipients whose address contains this are rejected.
    pub(crate) rejected_recipient: Option<&'static str>,
    /// Mails that contain this are rejected.
    pub(crate) rejected_content: Option<&'static str>,
    /// The number of recipients that are deferred.
    pub(crate) deferred_recipients: u32,
}

impl SmtpScript {
    fn recipient(&mut self, mail: &mut Mail, address: String) -> &'static str {
        if self.deferred_recipients > 0 {
            self.deferred_recipients -= 1;
            return "451 Try again later";
        }
        if self.rejected_recipient.is_some_and(|rejected| address.contains(rejected)) {
            return "550 No such recipient";
        }
        mail.to.push(address);
        "250 OK"
    }

    fn accept(&mut self, mail: &Mail) -> &'static str {
        if self.rejected_content.is_some_and(|rejected| mail.data.contains(rejected)) {
            return "554 Content rejected";
        }
        self.accepted.push(mail.clone());
        "250 OK"
    }
}

/// The server, on a free port.
pub(crate) struct MailServer {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<SmtpScript>>,
    serving: JoinHandle<()>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let script = Arc::<Mutex<SmtpScript>>::default();
        Self { address, serving: tokio::spawn(serve(listener, script.clone())), script }
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// Listens again, on the same address.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.serving = tokio::spawn(serve(listener, self.script.clone()));
    }

    /// The accepted mails and the script. The guard must not be held across an `await`.
    pub(crate) fn script(&self) -> MutexGuard<'_, SmtpScript> {
        self.script.lock().expect("no other thread has panicked")
    }
}

/// Its connections are closed when it is aborted.
async fn serve(listener: TcpListener, script: Arc<Mutex<SmtpScript>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let script = script.clone();
        connections.spawn(async move { converse(client, &script).await });
    }
}

async fn converse(client: TcpStream, script: &Mutex<SmtpScript>) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 mail.test ESMTP\r\n").await?;
    let mut mail = Mail::default();
    while let Some(line) = lines.next_line().await? {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        script.lock().unwrap().verbs.push(verb.clone());
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 mail.test",
            "MAIL" => {
                mail = Mail { from: address(&line), ..Mail::default() };
                "250 OK"
            }
            "RCPT" => script.lock().unwrap().recipient(&mut mail, address(&line)),
            "DATA" => {
                writer.write_all(b"354 Start mail input\r\n").await?;
                mail.data = content(&mut lines).await?;
                script.lock().unwrap().accept(&mail)
            }
            "NOOP" | "RSET" => "250 OK",
            "QUIT" => "221 Bye",
            _ => "502 Unknown command",
        };
        writer.write_all(format!("{answer}\r\n").as_bytes()).await?;
        if verb == "QUIT" {
            break;
        }
    }
    Ok(())
}

/// The text between angle brackets.
fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or("", |(address, _)| address).to_owned()
}

/// The lines before the final dot, without dot stuffing.
async fn content(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> io::Result<String> {
    let mut content = String::new();
    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
        content.extend([line.strip_prefix('.').unwrap_or(&line), "\r\n"]);
    }
    Ok(content)
}
