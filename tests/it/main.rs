//! Integration tests: the whole program on real servers, the adapters, and the service layer with fake ports.
#![expect(clippy::unwrap_used, reason = "a failed unwrap in a test is a clear failure")]

mod addresses;
mod architecture;
mod book;
mod command_order;
mod commands;
#[path = "../consistency.rs"]
mod consistency;
mod csv;
mod database;
mod documents;
mod duplicates;
mod edits;
mod export;
mod failed_messages;
mod faults;
mod fuzz;
mod harness;
mod http;
mod large_tables;
mod lists;
mod lock_order;
mod mail;
mod malformed;
mod memory;
mod model;
mod notifications;
mod operator_actions;
mod passwords;
mod postgres;
mod quantities;
mod read_model;
mod recovery;
mod redelivery_order;
mod relay;
mod sending;
mod service;
mod settings;
mod signals;
mod slow_commits;
mod store_contract;
mod subscriptions;
mod terminal;
mod test_cleanup;
mod topology;
mod view_timeouts;
