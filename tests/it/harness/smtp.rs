//! A mail server that takes mail down, refuses what it is told to refuse, and can go away and come back.

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

use super::{Running, World};

impl World {
    /// Starts a process that sends mail by way of a server; `roles` has the notifier among them.
    pub(crate) fn notifier(&self, roles: &str, server: &MailServer, settings: &[(&str, &str)]) -> Running {
        let url = format!("smtp://{}", server.address);
        let environment = [settings, &[("ALLOCATION__SMTP__URL", url.as_str())]].concat();
        self.start(&["run", "--only", roles], &environment)
    }
}

/// A mail that was taken.
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

/// What the server has taken, and what it is told not to take.
#[derive(Default)]
pub(crate) struct SmtpScript {
    pub(crate) taken: Vec<Mail>,
    /// No recipient whose address contains this.
    pub(crate) refused_recipient: Option<&'static str>,
    /// No mail that contains this.
    pub(crate) refused_content: Option<&'static str>,
    /// So many recipients are to come back later.
    pub(crate) put_off: u32,
}

impl SmtpScript {
    fn recipient(&mut self, mail: &mut Mail, address: String) -> &'static str {
        if self.put_off > 0 {
            self.put_off -= 1;
            return "451 Come back later";
        }
        if self.refused_recipient.is_some_and(|refused| address.contains(refused)) {
            return "550 Nobody here has this name";
        }
        mail.to.push(address);
        "250 OK"
    }

    fn take(&mut self, mail: &Mail) -> &'static str {
        if self.refused_content.is_some_and(|refused| mail.data.contains(refused)) {
            return "554 Nobody here wants this";
        }
        self.taken.push(mail.clone());
        "250 OK"
    }
}

/// Listens on a port of its own.
pub(crate) struct MailServer {
    address: SocketAddr,
    desk: Arc<Mutex<SmtpScript>>,
    serving: JoinHandle<()>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let desk = Arc::<Mutex<SmtpScript>>::default();
        Self { address, serving: tokio::spawn(serve(listener, desk.clone())), desk }
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }

    /// Is there again, under the same address.
    pub(crate) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still ours");
        self.serving = tokio::spawn(serve(listener, self.desk.clone()));
    }

    /// Not to be held while anything is waited for.
    pub(crate) fn desk(&self) -> MutexGuard<'_, SmtpScript> {
        self.desk.lock().expect("nobody panics at the desk")
    }
}

/// Its connections end with it.
async fn serve(listener: TcpListener, desk: Arc<Mutex<SmtpScript>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let desk = desk.clone();
        connections.spawn(async move { converse(client, &desk).await });
    }
}

async fn converse(client: TcpStream, desk: &Mutex<SmtpScript>) -> io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 mail.test ESMTP\r\n").await?;
    let mut mail = Mail::default();
    while let Some(line) = lines.next_line().await? {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" => "250 mail.test",
            "MAIL" => {
                mail = Mail { from: address(&line), ..Mail::default() };
                "250 OK"
            }
            "RCPT" => desk.lock().unwrap().recipient(&mut mail, address(&line)),
            "DATA" => {
                writer.write_all(b"354 Go on\r\n").await?;
                mail.data = content(&mut lines).await?;
                desk.lock().unwrap().take(&mail)
            }
            "NOOP" | "RSET" => "250 OK",
            "QUIT" => "221 Bye",
            _ => "502 Nobody here knows that",
        };
        writer.write_all(format!("{answer}\r\n").as_bytes()).await?;
        if verb == "QUIT" {
            break;
        }
    }
    Ok(())
}

/// What stands between the angle brackets.
fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or("", |(address, _)| address).to_owned()
}

/// Up to the line that is a single dot; one that was put before another dot is taken away.
async fn content(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> io::Result<String> {
    let mut content = String::new();
    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
        content.extend([line.strip_prefix('.').unwrap_or(&line), "\r\n"]);
    }
    Ok(content)
}
