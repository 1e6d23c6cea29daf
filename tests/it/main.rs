//! The program as others meet it: real servers, real processes, and every promise as a story.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so best where it stands")]

mod architecture;
mod book;
mod broker_order;
mod commands;
#[path = "../consistency.rs"]
mod consistency;
mod copies;
mod corpus;
mod crashes;
mod csv;
mod documents;
mod failures;
mod fuzz;
mod harness;
mod http;
mod leftovers;
mod lock_order;
mod mail;
mod notifications;
mod operators;
mod order;
mod plans;
mod postgres;
mod read_side;
mod recovery;
mod regressions;
mod relay;
mod rules;
mod service;
mod slow_commits;
mod store_contract;
mod subscriptions;
mod topology;
