//! The settings: their types, and how they are read and checked.

mod check;
mod error;
mod files;
mod load;
mod optional_address;
mod secret;
mod settings;
mod warnings;

pub use error::SettingsError;
pub use secret::{Secret, SecretUrl};
pub use settings::{
    Api, Broker, Database, Health, Limits, Log, LogFormat, Metrics, Notifications, Relay, Retention, Retry,
    Settings, Smtp, Worker,
};
