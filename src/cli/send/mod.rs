//! `allocation send`: publishes commands with confirms, as an upstream system does.

mod args;
mod check;
mod confirm;
mod file;
mod follow;
mod report;
mod run;

pub(super) use args::Send;
