//! Mail through an SMTP server.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    transport::smtp::{self, response::Code},
};

use crate::ports::{
    error::{Cause, NotifierError},
    notifier::{Notification, Notifier},
};

use super::message::{MailAddresses, MailConfigError};

/// A mail server that takes longer to respond is unavailable.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that scans mail may need minutes to accept it. A mail that is sent again in the meantime arrives twice.
const DELIVERY_TIMEOUT: Duration = Duration::from_mins(3);
/// Reply codes about the server, not the mail: authentication required or failed.
const SERVER_CODES: [u16; 5] = [454, 530, 534, 535, 538];

/// Sends each notification as one mail.
pub struct SmtpNotifier {
    /// One connection per mail: an interrupted one is closed and cannot affect the next mail.
    transport: AsyncSmtpTransport<Tokio1Executor>,
    addresses: MailAddresses,
}

impl SmtpNotifier {
    /// A notifier that connects when it is first used.
    ///
    /// # Errors
    /// [`MailConfigError::Url`] if the URL is not one of the forms that `smtp.url` takes.
    pub fn new(url: &str, addresses: MailAddresses) -> Result<Self, MailConfigError> {
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailConfigError::Url)?;
        Ok(Self { transport: server.timeout(Some(RESPONSE_TIMEOUT)).build(), addresses })
    }

    /// An error without a reply code concerns the mail if the server still responds, otherwise the server.
    async fn classify(&self, error: smtp::Error) -> NotifierError {
        let code: Option<u16> = error.status().map(Code::into);
        if code.is_some_and(|code| SERVER_CODES.contains(&code)) || self.probe().await.is_err() {
            return NotifierError::Unavailable(Cause::new(error));
        }
        if error.is_permanent() {
            NotifierError::Rejected(Cause::new(error))
        } else {
            NotifierError::Deferred(Cause::new(error))
        }
    }
}

#[async_trait]
impl Notifier for SmtpNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        let mail = self.addresses.mail(notification)?;
        match tokio::time::timeout(DELIVERY_TIMEOUT, self.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.classify(error).await),
            Err(_) => {
                let silent = format!("not taken within {DELIVERY_TIMEOUT:?}");
                self.probe().await?;
                Err(NotifierError::Deferred(silent.into()))
            }
        }
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        match tokio::time::timeout(RESPONSE_TIMEOUT, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(NotifierError::Unavailable("the server closed the connection".into())),
            Ok(Err(error)) => Err(NotifierError::Unavailable(Cause::new(error))),
            Err(_) => {
                Err(NotifierError::Unavailable(format!("no answer within {RESPONSE_TIMEOUT:?}").into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_url_is_reported_without_its_password() {
        let addresses = MailAddresses::new("a@b.c", "a@b.c").unwrap();
        let error = SmtpNotifier::new("mailhog:s3cret@h:1025", addresses).err().unwrap().to_string();
        assert!(error.contains("smtp.url") && !error.contains("s3cret"), "{error}");
    }
}
