//! The documents are tested: commands are parsed or run, examples decoded, links, names and generated parts compared.
//!
//! `UPDATE_DOCUMENTS=1` writes generated parts and program output into the documents instead of comparing them.

mod alerts;
mod commands;
mod examples;
mod layout;
mod links;
mod metrics;
mod names;
mod page;
mod part;
mod routes;
mod runbook;
mod settings;
