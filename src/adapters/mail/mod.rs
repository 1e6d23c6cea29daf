//! Notifications by mail: through a server, into a directory, or as log lines.

mod directory;
mod log;
mod message;
mod smtp;

pub use directory::DirectoryNotifier;
pub use log::LogNotifier;
pub use message::{MailAddresses, MailConfigError};
pub use smtp::SmtpNotifier;
