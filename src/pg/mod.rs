//! Access to PostgreSQL that the adapter and the views share: configuration, sessions with time limits, and errors.

mod config;
mod error;
mod pool;
mod session;
mod session_options;
mod sql_error;
mod timeout;

pub use config::{PLANNER, PgConfig};
pub(crate) use error::sqlstate;
pub use pool::Pool;
pub(crate) use session::PooledSession;
pub(crate) use session_options::{Pooler, SessionOptions};
pub(crate) use timeout::with_timeout;
