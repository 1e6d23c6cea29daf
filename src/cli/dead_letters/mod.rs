//! `allocation dead-letters`: failed messages, their causes, and what an operator can do with them.

mod bulk;
mod command;
mod edit;
mod read;
mod target;
mod trial;

pub(super) use command::DeadLetters;
