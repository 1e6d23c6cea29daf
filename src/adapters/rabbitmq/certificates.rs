//! Certificates for TLS connections to the broker.

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};

use crate::{
    address::{InvalidUrl, ServerUrl},
    ports::error::BrokerError,
};

/// PEM files. They are read for each connection, so that they can be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    /// Certificate authorities that are trusted in addition to those of the operating system.
    authorities: Option<String>,
    /// This client's certificate with its chain, and its key.
    client: Option<(String, String)>,
}

impl CertificateFiles {
    /// The files that a URL names.
    ///
    /// # Errors
    /// A certificate without a key or a key without a certificate, or a URL without TLS.
    pub(super) fn of(url: &ServerUrl) -> Result<Self, InvalidUrl> {
        let file = |name: &'static str| match url.parameter(name) {
            Some(_) if url.scheme != "amqps" => Err(InvalidUrl::Value(name)),
            path => Ok(path.map(str::to_owned)),
        };
        let authorities = file("cacertfile")?;
        let client = match (file("certfile")?, file("keyfile")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(InvalidUrl::Value("keyfile")),
            (None, Some(_)) => return Err(InvalidUrl::Value("certfile")),
        };
        Ok(Self { authorities, client })
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) async fn read(&self) -> Result<OwnedTLSConfig, BrokerError> {
        let cert_chain = match &self.authorities {
            Some(path) => Some(String::from_utf8_lossy(&read("cacertfile", path).await?).into_owned()),
            None => None,
        };
        let identity = match &self.client {
            Some((certificate, key)) => Some(OwnedIdentity::PKCS8 {
                pem: read("certfile", certificate).await?,
                key: read("keyfile", key).await?,
            }),
            None => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

async fn read(parameter: &str, path: &str) -> Result<Vec<u8>, BrokerError> {
    let content = tokio::fs::read(path).await;
    content.map_err(|error| {
        BrokerError::Unavailable(format!("cannot read {parameter} {path:?}: {error}").into())
    })
}
