//! Mail, by SMTP.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, Mailboxes, MessageBuilder, header},
    transport::smtp::{self, response::Code},
};
use sha2::{Digest, Sha256};

use crate::ports::{
    error::{Cause, NotifierError},
    notifier::{Notification, Notifier},
};

/// A mail server that takes longer to answer a call is away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// One that looks into a mail before it takes it may need minutes; sent once more meanwhile, it would come twice.
const TAKES_WITHIN: Duration = Duration::from_mins(3);
/// What a server says of itself and not of a mail: wants authentication, does not take ours.
const ABOUT_THE_SERVER: [u16; 5] = [454, 530, 534, 535, 538];

/// What is wrong with how mail is to be sent.
#[derive(Debug, thiserror::Error)]
pub enum SmtpConfigError {
    /// The URL is none; it is not repeated, for it may hold a password.
    #[error(
        "smtp.url is not a URL like smtp://host:25, smtp://host:587?tls=required or smtps://user:password@host"
    )]
    Url,
    /// An address is none.
    #[error("{key}: {value:?} is not {what}: {error}")]
    Address {
        /// The setting.
        key: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        error: lettre::address::AddressError,
    },
}

/// Sends every notice as a mail of its own, from one address to a few.
pub struct SmtpNotifier {
    /// A connection for each mail: one that was given up half-way is closed, and confuses no other.
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Mailboxes,
}

impl SmtpNotifier {
    /// A notifier that connects when it is first used. `to` is one address or several, separated by commas.
    ///
    /// # Errors
    /// [`SmtpConfigError`] names the setting.
    pub fn new(url: &str, from: &str, to: &str) -> Result<Self, SmtpConfigError> {
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| SmtpConfigError::Url)?;
        let invalid = |key, what, value: &str| {
            let value = value.to_owned();
            move |error| SmtpConfigError::Address { key, value, what, error }
        };
        Ok(Self {
            transport: server.timeout(Some(ANSWERS_WITHIN)).build(),
            from: from.parse().map_err(invalid("notifications.from", "a mail address", from))?,
            to: to.parse().map_err(invalid("notifications.to", "a list of mail addresses", to))?,
        })
    }

    fn mail(&self, notification: &Notification) -> Result<Message, NotifierError> {
        let unsendable = |error: lettre::error::Error| NotifierError::Rejected(Cause::new(error));
        let id = format!("<{}@{}>", local_part(&notification.event_id), self.from.email.domain());
        MessageBuilder::new()
            .from(self.from.clone())
            .mailbox(header::To::from(self.to.clone()))
            .message_id(Some(id))
            .subject(&notification.subject)
            .header(header::MIME_VERSION_1_0)
            .header(header::ContentType::TEXT_PLAIN)
            .body(notification.text.clone())
            .map_err(unsendable)
    }

    /// Whether an error is the mail's own. One that says nothing of the mail is, if the server answers others.
    async fn judged(&self, error: smtp::Error) -> NotifierError {
        let code: Option<u16> = error.status().map(Code::into);
        if code.is_some_and(|code| ABOUT_THE_SERVER.contains(&code)) || self.probe().await.is_err() {
            return NotifierError::Unavailable(Cause::new(error));
        }
        if error.is_permanent() {
            NotifierError::Rejected(Cause::new(error))
        } else {
            NotifierError::Deferred(Cause::new(error))
        }
    }
}

/// An event's id is a UUID. What an operator put in its place may be anything, and is told by its hash.
fn local_part(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if id.bytes().all(plain) { id.to_owned() } else { format!("{:x}", u128_of(id)) }
}

fn u128_of(id: &str) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(id)[..16]);
    u128::from_be_bytes(first)
}

#[async_trait]
impl Notifier for SmtpNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        let mail = self.mail(notification)?;
        match tokio::time::timeout(TAKES_WITHIN, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.judged(error).await),
            Err(_) => {
                let silent = format!("not taken within {TAKES_WITHIN:?}");
                self.probe().await?;
                Err(NotifierError::Deferred(silent.into()))
            }
        }
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        match tokio::time::timeout(ANSWERS_WITHIN, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(NotifierError::Unavailable("the server closed the connection".into())),
            Ok(Err(error)) => Err(NotifierError::Unavailable(Cause::new(error))),
            Err(_) => Err(NotifierError::Unavailable(format!("no answer within {ANSWERS_WITHIN:?}").into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(notification: &Notification) -> String {
        let to = "Stock <stock@example.com>, second@example.com";
        let notifier = SmtpNotifier::new("smtp://127.0.0.1:1", "allocation@shop.example", to).unwrap();
        String::from_utf8(notifier.mail(notification).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_a_valid_message_that_names_its_event() {
        let mail = written(&Notification {
            event_id: "0190-7e2a".into(),
            subject: "Out of stock for LAMPE-GRÜN".into(),
            text: "Out of stock for LAMPE-GRÜN\n".into(),
        });
        let (headers, body) = mail.split_once("\r\n\r\n").unwrap();
        for header in [
            "From: allocation@shop.example",
            "To: Stock <stock@example.com>, second@example.com",
            "Message-ID: <0190-7e2a@shop.example>",
            "Subject: Out of stock for =?utf-8?",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
            "Date: ",
        ] {
            assert!(headers.lines().any(|line| line.starts_with(header)), "{header} in {headers}");
        }
        assert!(body.starts_with("Out of stock for LAMPE-GR"), "{body}");
    }

    #[test]
    fn a_strange_id_and_a_long_name_break_no_header() {
        let notification = |id: &str| Notification {
            event_id: id.into(),
            subject: format!("Out of stock for {}", "ü".repeat(255)),
            text: "x".repeat(5000),
        };
        let mail = written(&notification("a> b\"c"));
        assert!(mail.lines().all(|line| line.len() <= 998), "RFC 5322 allows no longer line");
        let id = |mail: &str| mail.lines().find(|line| line.starts_with("Message-ID")).unwrap().to_owned();
        assert!(!id(&mail).contains(' ') || id(&mail).matches(' ').count() == 1);
        assert_ne!(id(&mail), id(&written(&notification("a> b\"d"))));
    }

    #[test]
    fn a_mistake_in_the_settings_is_named() {
        let error = |url, from, to| SmtpNotifier::new(url, from, to).err().unwrap().to_string();
        assert!(error("mailhog:1025", "a@b.c", "a@b.c").contains("smtp.url"));
        assert!(error("smtp://h:1", "nobody", "a@b.c").contains("notifications.from: \"nobody\""));
        assert!(error("smtp://h:1", "a@b.c", "a@b.c, ,").contains("notifications.to"));
    }
}
