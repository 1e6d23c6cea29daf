//! Mail through an SMTP server.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    transport::smtp::{
        self, AsyncSmtpTransportBuilder, SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT,
        authentication::Credentials,
        client::{Tls, TlsParameters},
        extension::ClientId,
        response::Code,
    },
};
use secrecy::ExposeSecret as _;

use crate::{
    address::{InvalidUrl, SMTP, ServerUrl},
    ports::{
        error::{Cause, NotifierError},
        notifier::{Notification, Notifier},
    },
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
        let server = server(url).map_err(MailConfigError::Url)?;
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

/// The server of a URL. The path is the name by which this program introduces itself.
fn server(url: &str) -> Result<AsyncSmtpTransportBuilder, InvalidUrl> {
    let ServerUrl { scheme, user, password, hosts, path, parameters, .. } = ServerUrl::parse(url, &SMTP)?;
    let host = hosts.into_iter().next().filter(|host| !host.name.is_empty()).ok_or(InvalidUrl::Host)?;
    let tls = || TlsParameters::new(host.name.clone()).map_err(|_| InvalidUrl::Host);
    let (port, tls) = match (scheme, parameters.first().map(|(_, value)| value.as_str())) {
        ("smtps", None | Some("required")) => (SUBMISSIONS_PORT, Tls::Wrapper(tls()?)),
        ("smtp", None | Some("none")) => (SMTP_PORT, Tls::None),
        ("smtp", Some("required")) => (SUBMISSION_PORT, Tls::Required(tls()?)),
        ("smtp", Some("opportunistic")) => (SUBMISSION_PORT, Tls::Opportunistic(tls()?)),
        _ => return Err(InvalidUrl::Value("tls")),
    };
    let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&host.name)
        .port(host.port.unwrap_or(port))
        .tls(tls);
    if let Some(name) = path.filter(|name| !name.is_empty()) {
        server = server.hello_name(ClientId::Domain(name));
    }
    if let Some(password) = password {
        let password = password.expose_secret().to_owned();
        server = server.credentials(Credentials::new(user.unwrap_or_default(), password));
    }
    Ok(server)
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
        for url in [
            "mailhog:s3cret@h:1025",
            "smtp://u:s3cret@",
            "smtp://u:s3cret@h?tls=s3cret",
            "smtps://u:s3cret@h?tls=opportunistic",
            "smtp://u:s3cret@h?TLS=required",
        ] {
            let addresses = MailAddresses::new("a@b.c", "a@b.c").unwrap();
            let error = SmtpNotifier::new(url, addresses).err().unwrap();
            let text = format!("{:#}", anyhow::Error::new(error));
            assert!(text.contains("smtp.url") && !text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn the_forms_of_the_url_have_the_ports_of_their_protocols() {
        for (url, port) in [
            ("smtp://mail", "25"),
            ("smtp://mail?tls=required", "587"),
            ("smtp://mail?tls=none", "25"),
            ("smtp://mail?tls=opportunistic", "587"),
            ("smtps://u:p@mail/my.name", "465"),
            ("smtp://[::1]:2525", "2525"),
            ("smtps://[::1]", "465"),
        ] {
            let server = format!("{:?}", server(url).unwrap());
            assert!(server.contains(&format!("port: {port}")), "{url}: {server}");
        }
    }
}
