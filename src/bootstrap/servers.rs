//! What the URLs in the settings lead to.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    adapters::mail::{DirectoryNotifier, LogNotifier, MailAddresses, SmtpNotifier},
    config::Database,
    pg::PgConfig,
    ports::notifier::Notifier,
};

/// The database, with a URL of its own for what needs a session of its own if there is one.
pub(super) fn database(settings: &Database) -> anyhow::Result<PgConfig> {
    let config = PgConfig::new(settings.url.expose(), settings.max_connections.get(), settings.timeout)
        .context("database.url (or DATABASE_URL) is not a PostgreSQL URL")?;
    match settings.session_url.expose() {
        "" => Ok(config),
        url => config.with_session_url(url).context("database.session_url is not a PostgreSQL URL"),
    }
}

/// The notifier that the scheme of `smtp.url` selects.
pub(super) fn notifier(url: &str, addresses: MailAddresses) -> anyhow::Result<Arc<dyn Notifier>> {
    Ok(match (url, url.strip_prefix("file:")) {
        ("", _) => Arc::new(LogNotifier),
        (_, Some(directory)) => Arc::new(DirectoryNotifier::new(directory.into(), addresses)),
        (url, None) => Arc::new(SmtpNotifier::new(url, addresses)?),
    })
}
