//! Bus, worker and relay over ports that do what a test says: what servers do at the wrong moment, without servers and
//! without waiting.

mod attempts;
mod doubts;
mod fakes;
mod groups;
mod hand_back;
mod mails;
mod missing_answers;
mod operators;
mod publication;
mod retries;
mod starts;
mod worker;
