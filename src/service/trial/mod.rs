//! `dead-letters try`: handles failed messages in a dry run and reports what would happen. Nothing is changed.

mod mail;
mod options;
mod pass;
mod report;
mod tried_message;
mod use_case;

pub use options::TrialOptions;
pub use report::{MailToSend, MessageSummary, TrialReport, Verdict};
pub use use_case::{Trial, TrialError};
