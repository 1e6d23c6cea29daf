//! The order of commands with one key: which must wait for an earlier one.

use crate::{domain::StatusKind, ports::store::OrderCheck};

use super::{envelope::Envelope, failure::Failure, outcome::Step};

/// Whether it is a command's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// No earlier command with its key is open.
    Now,
    /// It must wait for an earlier one.
    AfterAnother,
    /// It is recorded as a failed message that comes after another one; this copy of it is not needed.
    Recorded,
}

/// Whether it is the turn of a command. `is_current` means that it is the current copy of its failed message; `redelivered`,
/// that it was delivered before.
pub(super) fn turn(check: &OrderCheck, envelope: &Envelope, is_current: bool, redelivered: bool) -> Turn {
    if !envelope.content.keeps_order() {
        return Turn::Now;
    }
    match (check.own, check.is_behind) {
        // Its worker was killed before it acknowledged the delivery, and a later command was handled: it stays dead.
        (Some(own), _) if own.status == StatusKind::Dead && own.overtaken && redelivered => Turn::Recorded,
        (_, false) => Turn::Now,
        (Some(own), true) if own.status == StatusKind::Waiting => Turn::Recorded,
        (Some(own), true) if own.status == StatusKind::Retrying && !is_current => Turn::Recorded,
        (_, true) => Turn::AfterAnother,
    }
}

/// The failure of a command that must wait: it is recorded, and not tried.
pub(super) fn must_wait() -> Step {
    Step::failed(Failure::Waiting)
}
