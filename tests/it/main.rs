//! Tests of the whole program on real servers, of its adapters, and of its service.
#![expect(clippy::unwrap_used, reason = "a failed unwrap in a test is a clear failure")]

mod architecture;
mod book;
mod broker_order;
mod commands;
#[path = "../consistency.rs"]
mod consistency;
mod copies;
mod csv;
mod documents;
mod failures;
mod faults;
mod fuzz;
mod harness;
mod http;
mod leftovers;
mod lock_order;
mod mail;
mod malformed;
mod model;
mod notifications;
mod operators;
mod order;
mod passwords;
mod plans;
mod postgres;
mod read_side;
mod recovery;
mod regressions;
mod relay;
mod service;
mod slow_commits;
mod store_contract;
mod subscriptions;
mod topology;
mod view_timeouts;
