//! `dead-letters try`: handles failed messages in a dry run and reports what would happen. Nothing is changed.

mod mail;
mod pass;
mod report;
mod trial;
mod tried_message;

pub use report::{MailToSend, MessageSummary, TrialReport, Verdict};
pub use trial::{Trial, TrialError, TrialOptions};
