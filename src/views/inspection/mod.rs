//! The state of the database, for the checks of an installation.

mod privileges;
mod schema;
mod server;
