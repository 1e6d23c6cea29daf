//! Notifications as files, for a first run without a mail server and for tests.

use std::{io, path::PathBuf};

use async_trait::async_trait;

use crate::ports::{
    error::{Cause, NotifierError},
    notifier::{Notification, Notifier},
};

use super::message::{MailAddresses, file_safe_id};

/// Writes each notification to a file `EVENT-ID.eml` that mail programs can open. A repeat replaces its own file.
pub struct DirectoryNotifier {
    directory: PathBuf,
    addresses: MailAddresses,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}", directory.display())]
struct WriteError {
    directory: PathBuf,
    source: io::Error,
}

impl DirectoryNotifier {
    /// A notifier that creates `directory` when it is first used.
    #[must_use]
    pub fn new(directory: PathBuf, addresses: MailAddresses) -> Self {
        Self { directory, addresses }
    }

    fn unavailable(&self, source: io::Error) -> NotifierError {
        let directory = self.directory.clone();
        NotifierError::Unavailable(Cause::new(WriteError { directory, source }))
    }
}

#[async_trait]
impl Notifier for DirectoryNotifier {
    async fn notify(&self, notification: &Notification) -> Result<(), NotifierError> {
        let mail = self.addresses.mail(notification)?.formatted();
        self.probe().await?;
        let name = file_safe_id(&notification.event_id);
        let (part, file) = (format!("{name}.part"), format!("{name}.eml"));
        let (part, file) = (self.directory.join(part), self.directory.join(file));
        let written = async {
            tokio::fs::write(&part, mail).await?;
            // Readers see the whole mail or none.
            tokio::fs::rename(&part, &file).await
        };
        written.await.map_err(|error| self.unavailable(error))
    }

    async fn probe(&self) -> Result<(), NotifierError> {
        tokio::fs::create_dir_all(&self.directory).await.map_err(|error| self.unavailable(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notification_is_one_file_and_a_repeat_replaces_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("outgoing/mail");
        let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
        let notifier = DirectoryNotifier::new(directory.clone(), addresses);
        let notification =
            Notification { event_id: "e-1".into(), subject: "Out of stock".into(), text: "LAMP\n".into() };
        for _ in 0..2 {
            notifier.notify(&notification).await.unwrap();
        }
        let files: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["e-1.eml"]);
        let mail = std::fs::read_to_string(directory.join("e-1.eml")).unwrap();
        assert!(mail.contains("Message-ID: <e-1@shop.example>") && mail.ends_with("LAMP\r\n"), "{mail}");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_an_outage() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let addresses = MailAddresses::new("a@shop.example", "b@shop.example").unwrap();
        let notifier = DirectoryNotifier::new(file.path().join("mail"), addresses);
        let error = notifier.probe().await.unwrap_err();
        assert!(matches!(error, NotifierError::Unavailable(_)), "{error}");
    }
}
