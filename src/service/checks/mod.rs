//! Checks of an installation: what was found, what is wanted, and the command that repairs it.

mod all;
mod broker;
mod check;
mod database;
mod system;
#[cfg(test)]
mod tests;

pub use all::all_checks;
pub use check::{Check, CheckStatus};
