//! PostgreSQL: the store, the outbox, the failed messages and the read model.

mod backlog;
mod blockers;
mod commit_signal;
mod dry_run;
mod failed_messages;
mod inbox;
mod installation;
mod leader;
mod leadership;
mod low_water_mark;
mod migrate;
mod outbox;
mod parked_events;
mod processes;
mod products;
mod purge;
mod read_model;
mod rebuild;
mod savepoint;
mod schema;
mod schema_rights;
mod starts;
mod store;
mod transaction;

pub use backlog::PgBacklogReader;
pub use commit_signal::{CommitSignal, forward_commits};
pub use dry_run::PgDryRuns;
pub use failed_messages::PgFailedMessages;
pub use installation::{PgInstallation, check_sessions, observe_state};
pub use leader::PgOutbox;
pub use migrate::{Migration, MigrationError, migrate};
pub use parked_events::PgParkedEvents;
pub use processes::PgProcessRegistry;
pub use rebuild::PgReadModel;
pub use store::PgStore;
