//! Access to PostgreSQL that the adapter and the views share: configuration, sessions with time limits, and errors.

mod config;
mod error;
mod session;
mod sql_error;

pub use config::{PLANNER, PgConfig};
pub(crate) use error::sqlstate;
pub(crate) use session::{PooledSession, with_timeout};
