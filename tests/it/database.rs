//! The database as an installation: its namespace, encoding, rights and locks, and what happens while it cannot be written.

mod connections;
mod deployment_roles;
mod encoding;
mod locks;
mod maintenance;
mod migration_locks;
mod namespaces;
mod other_roles;
mod poolers;
mod unwritable;
