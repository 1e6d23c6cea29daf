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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::{
            queue::{Message, QueueName},
            store::OwnFailedMessage,
        },
        service::decode::{Limits, decode},
    };

    fn envelope(kind: &str, body: &str) -> Envelope {
        let message = Message {
            kind: kind.into(),
            message_id: Some("m".into()),
            body: body.as_bytes().into(),
            ..Message::default()
        };
        let queue = if kind == "out_of_stock" { QueueName::Notifications } else { QueueName::Orders };
        decode(queue, &message, Limits { body_bytes: 1000, header_bytes: 1000 }).unwrap()
    }

    #[test]
    fn a_command_waits_behind_an_open_one_and_a_recorded_one_is_not_needed_twice() {
        use StatusKind::{Dead, Discarded, Retrying, Waiting};
        let line = envelope("deallocate", r#"{"orderid": "o", "sku": "LAMP"}"#);
        let turn_of = |own: Option<(StatusKind, bool)>, is_behind, is_current, redelivered| {
            let own =
                own.map(|(status, overtaken)| OwnFailedMessage { id: 1, status, attempts: 1, overtaken });
            let check = OrderCheck { own, is_behind, ..OrderCheck::default() };
            turn(&check, &line, is_current, redelivered)
        };
        for (own, is_behind, is_current, redelivered, expected) in [
            (None, false, false, false, Turn::Now),
            (None, true, false, false, Turn::AfterAnother),
            (Some((Waiting, false)), false, false, false, Turn::Now),
            (Some((Waiting, false)), true, false, false, Turn::Recorded),
            (Some((Retrying, false)), false, false, false, Turn::Now),
            (Some((Retrying, false)), true, false, false, Turn::Recorded),
            (Some((Retrying, false)), true, true, false, Turn::AfterAnother),
            (Some((Dead, false)), false, false, true, Turn::Now),
            (Some((Dead, true)), false, false, false, Turn::Now),
            (Some((Dead, true)), false, false, true, Turn::Recorded),
            (Some((Discarded, true)), false, false, true, Turn::Now),
            (Some((Dead, false)), true, false, false, Turn::AfterAnother),
        ] {
            let found = turn_of(own, is_behind, is_current, redelivered);
            assert_eq!(found, expected, "{own:?}, {is_behind}, {is_current}, {redelivered}");
        }
        let event = envelope("out_of_stock", r#"{"orderid": "o", "sku": "LAMP", "qty": 1}"#);
        let behind = OrderCheck { is_behind: true, ..OrderCheck::default() };
        assert_eq!(turn(&behind, &event, false, false), Turn::Now, "notifications have no order");
    }
}
