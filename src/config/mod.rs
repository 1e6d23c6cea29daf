//! The settings: their types, and how they are read and checked.

mod check;
mod error;
mod files;
mod load;
mod secret;
mod settings;
mod warnings;

pub use error::SettingsError;
pub use secret::{Secret, SecretUrl};
pub use settings::{
    Api, Broker, Database, Limits, Log, LogFormat, Notifications, Relay, Retention, Retry, Settings, Smtp,
    Worker,
};
