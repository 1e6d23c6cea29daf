//! HTTP: the book's API and a little more, handled through the same bus and units of work as messages.

mod auth;
mod batcher;
mod commands;
mod observed;
mod request_body;
mod responses;
mod routes;
mod server;
mod state;

pub use state::Api;
