//! The mail that a notification becomes.

use lettre::{
    Message,
    message::{Mailbox, Mailboxes, MessageBuilder, header},
};
use sha2::{Digest, Sha256};

use crate::{
    address::InvalidUrl,
    ports::{
        error::{Cause, NotifierError},
        notifier::Notification,
    },
};

/// An error in the mail settings.
#[derive(Debug, thiserror::Error)]
pub enum MailConfigError {
    /// The URL is invalid. It is not repeated here because it may contain a password.
    #[error(
        "smtp.url must be empty, file:DIR, smtp://host:25, smtp://host:587?tls=required or \
         smtps://user:password@host"
    )]
    Url(#[source] InvalidUrl),
    /// An address is invalid.
    #[error("{key}: {value:?} is not {expected}: {error}")]
    Address {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What the setting takes.
        expected: &'static str,
        /// The parse error.
        error: lettre::address::AddressError,
    },
}

/// Sender and recipients of every mail.
#[derive(Clone, Debug)]
pub struct MailAddresses {
    from: Mailbox,
    to: Mailboxes,
}

impl MailAddresses {
    /// `from` is one address, `to` is one or several, separated by commas.
    ///
    /// # Errors
    /// [`MailConfigError::Address`] names the setting.
    pub fn new(from: &str, to: &str) -> Result<Self, MailConfigError> {
        let invalid = |key, expected, value: &str| {
            let value = value.to_owned();
            move |error| MailConfigError::Address { key, value, expected, error }
        };
        Ok(Self {
            from: from.parse().map_err(invalid("notifications.from", "a mail address", from))?,
            to: to.parse().map_err(invalid("notifications.to", "a list of mail addresses", to))?,
        })
    }

    /// The mail for a notification. Its `Message-ID` comes from the event, so that a repeat can be recognised.
    pub(super) fn mail(&self, notification: &Notification) -> Result<Message, NotifierError> {
        let invalid = |error: lettre::error::Error| NotifierError::Rejected(Cause::new(error));
        let id = format!("<{}@{}>", file_safe_id(&notification.event_id), self.from.email.domain());
        MessageBuilder::new()
            .from(self.from.clone())
            .mailbox(header::To::from(self.to.clone()))
            .message_id(Some(id))
            .subject(&notification.subject)
            .header(header::MIME_VERSION_1_0)
            .header(header::ContentType::TEXT_PLAIN)
            .body(notification.text.clone())
            .map_err(invalid)
    }
}

/// An event id as part of a header or a file name. Event ids are UUIDs, but an edited message may have any id: characters
/// that are not letters, digits, `-` or `_` make it a hash.
pub(super) fn file_safe_id(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if id.bytes().all(plain) { id.to_owned() } else { format!("{:x}", first_128_bits(id)) }
}

fn first_128_bits(id: &str) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(id)[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(notification: &Notification) -> String {
        let to = "Stock <stock@example.com>, second@example.com";
        let addresses = MailAddresses::new("allocation@shop.example", to).unwrap();
        String::from_utf8(addresses.mail(notification).unwrap().formatted()).unwrap()
    }

    #[test]
    fn a_mail_is_valid_and_carries_the_event_id() {
        let mail = formatted(&Notification {
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
    fn unusual_ids_and_long_names_keep_the_headers_valid() {
        let notification = |id: &str| Notification {
            event_id: id.into(),
            subject: format!("Out of stock for {}", "ü".repeat(255)),
            text: "x".repeat(5000),
        };
        let mail = formatted(&notification("a> b\"c"));
        assert!(mail.lines().all(|line| line.len() <= 998), "RFC 5322 limits the length of a line");
        let id = |mail: &str| mail.lines().find(|line| line.starts_with("Message-ID")).unwrap().to_owned();
        assert_eq!(id(&mail).matches(' ').count(), 1);
        assert_ne!(id(&mail), id(&formatted(&notification("a> b\"d"))));
    }

    #[test]
    fn an_invalid_address_is_reported_with_its_setting() {
        let error = |from, to| MailAddresses::new(from, to).err().unwrap().to_string();
        assert!(error("no-address", "a@b.c").contains("notifications.from: \"no-address\""));
        assert!(error("a@b.c", "a@b.c, ,").contains("notifications.to"));
    }
}
