use std::time::Duration;

use super::{
    super::message::FailedMessageKey, BodyHash, Edit, FailedMessage, NewAttempt, OperatorAction, Reason,
    RetryDecision, SkipReason, Status, StatusKind,
};

const REASON: Reason = Reason::Rejected;
const STATUSES: [Status; 5] =
    [Status::Retrying, Status::Waiting, Status::Resolved, Status::Dead(REASON), Status::Discarded(REASON)];

fn message(status: Status, handled: bool, scheduled_recently: bool) -> FailedMessage {
    FailedMessage { id: 7, status, attempts: 3, generation: 4, handled, overtaken: false, scheduled_recently }
}

fn edit(shown_generation: i64) -> OperatorAction {
    OperatorAction::Edit(Edit {
        shown_generation,
        kind: "allocate".into(),
        message_id: "m-1".into(),
        body: b"{}".into(),
        body_hash: BodyHash([0; 16]),
        ordering_key: None,
        even_overtaken: false,
    })
}

fn attempt(generation: i64, next: RetryDecision) -> NewAttempt {
    NewAttempt {
        key: FailedMessageKey { message_id: None, kind: "allocate".into(), body_hash: BodyHash([0; 16]) },
        ordering_key: None,
        overtaken_by: None,
        generation,
        body: std::sync::Arc::default(),
        properties: String::new(),
        original: Vec::new(),
        error: String::new(),
        error_pattern: String::new(),
        error_group: String::new(),
        chain: Vec::new(),
        attempts: 1,
        duration: Duration::ZERO,
        trace_id: None,
        host: String::new(),
        next,
    }
}

/// The state after an action, as `status attempts generation`, or why it is skipped. A skipped message that becomes
/// resolved has `, resolved`.
fn outcome(mut message: FailedMessage, action: &OperatorAction) -> String {
    let before = message.clone();
    match message.apply(action) {
        Ok(transition) => {
            assert_eq!((transition.id, transition.status), (7, message.status));
            assert_eq!((transition.attempts, transition.generation), (message.attempts, message.generation));
            format!("{} {} {}", message.status.kind().as_str(), message.attempts, message.generation)
        }
        Err(reason) => {
            assert_eq!(message, before);
            let resolved = message.resolve_skipped(action).is_some();
            assert_eq!(message.status == Status::Resolved, resolved || before.status == Status::Resolved);
            format!("{reason}{}", if resolved { ", resolved" } else { "" })
        }
    }
}

const WAITS: &str = "waits for an earlier message with the same line or batch";

/// The action, the status, and the outcomes if the message was not handled, if it was not handled and its retry is
/// scheduled, if it was handled, and if both.
const TRANSITIONS: [(&str, StatusKind, [&str; 4]); 20] = [
    (
        "retry",
        StatusKind::Retrying,
        ["retrying 3 4", "retry already scheduled", "already handled, resolved", "already handled, resolved"],
    ),
    (
        "retry",
        StatusKind::Resolved,
        ["already resolved", "already resolved", "already handled", "already handled"],
    ),
    (
        "retry",
        StatusKind::Dead,
        ["retrying 0 5", "retrying 0 5", "already handled, resolved", "already handled, resolved"],
    ),
    (
        "retry",
        StatusKind::Discarded,
        [
            "discarded; run `restore` first",
            "discarded; run `restore` first",
            "already handled",
            "already handled",
        ],
    ),
    ("retry", StatusKind::Waiting, [WAITS, WAITS, "already handled, resolved", "already handled, resolved"]),
    (
        "discard",
        StatusKind::Retrying,
        ["discarded 3 4", "discarded 3 4", "already handled, resolved", "already handled, resolved"],
    ),
    (
        "discard",
        StatusKind::Waiting,
        ["discarded 3 4", "discarded 3 4", "already handled, resolved", "already handled, resolved"],
    ),
    ("discard", StatusKind::Resolved, ["already resolved"; 4]),
    ("discard", StatusKind::Dead, ["discarded 3 4"; 4]),
    ("discard", StatusKind::Discarded, ["already discarded"; 4]),
    (
        "restore",
        StatusKind::Retrying,
        ["not discarded", "not discarded", "not discarded, resolved", "not discarded, resolved"],
    ),
    (
        "restore",
        StatusKind::Waiting,
        ["not discarded", "not discarded", "not discarded, resolved", "not discarded, resolved"],
    ),
    ("restore", StatusKind::Resolved, ["not discarded"; 4]),
    (
        "restore",
        StatusKind::Dead,
        ["not discarded", "not discarded", "not discarded, resolved", "not discarded, resolved"],
    ),
    ("restore", StatusKind::Discarded, ["dead 3 4"; 4]),
    ("edit", StatusKind::Retrying, ["not dead"; 4]),
    ("edit", StatusKind::Waiting, ["not dead"; 4]),
    ("edit", StatusKind::Resolved, ["not dead"; 4]),
    ("edit", StatusKind::Dead, ["retrying 0 5"; 4]),
    ("edit", StatusKind::Discarded, ["not dead"; 4]),
];

#[test]
fn every_action_on_every_status_has_its_outcome() {
    let actions = [OperatorAction::Retry, OperatorAction::Discard, OperatorAction::Restore, edit(4)];
    for action in actions {
        for status in STATUSES {
            let (.., outcomes) = TRANSITIONS
                .iter()
                .find(|(name, kind, _)| *name == action.name() && *kind == status.kind())
                .unwrap();
            let cases = [(false, false), (false, true), (true, false), (true, true)];
            for ((handled, scheduled), expected) in cases.into_iter().zip(*outcomes) {
                let case = format!("{action:?}, {status:?}, handled: {handled}, scheduled: {scheduled}");
                assert_eq!(outcome(message(status, handled, scheduled), &action), expected, "{case}");
            }
        }
    }
}

#[test]
fn a_restored_message_is_dead_for_its_old_reason() {
    let mut message = message(Status::Dead(Reason::CrashLoop), false, false);
    message.apply(&OperatorAction::Discard).unwrap();
    assert_eq!(message.status, Status::Discarded(Reason::CrashLoop));
    message.apply(&OperatorAction::Restore).unwrap();
    assert_eq!(message.status, Status::Dead(Reason::CrashLoop));
}

#[test]
fn a_message_that_is_discarded_before_its_last_attempt_is_restored_as_dead() {
    for status in [Status::Retrying, Status::Waiting] {
        let mut message = message(status, false, true);
        message.apply(&OperatorAction::Discard).unwrap();
        message.apply(&OperatorAction::Restore).unwrap();
        assert_eq!(message.status, Status::Dead(Reason::Discarded));
    }
}

#[test]
fn an_overtaken_message_is_retried_only_on_request() {
    let overtaken = || FailedMessage { overtaken: true, ..message(Status::Dead(REASON), false, false) };
    let OperatorAction::Edit(edit) = edit(4) else { unreachable!() };
    for skipped in [OperatorAction::Retry, OperatorAction::Edit(edit.clone())] {
        assert_eq!(overtaken().apply(&skipped), Err(SkipReason::Overtaken), "{skipped:?}");
    }
    let requested = OperatorAction::Edit(Edit { even_overtaken: true, ..edit });
    for applied in [OperatorAction::RetryOvertaken, requested] {
        assert!(overtaken().apply(&applied).is_ok(), "{applied:?}");
    }
    for kept in [OperatorAction::Discard, OperatorAction::Restore] {
        let mut message = overtaken();
        let _ = message.apply(&kept);
        assert!(message.overtaken, "{kept:?}");
    }
}

#[test]
fn a_new_arrival_of_a_message_is_later_than_what_overtook_the_former_one() {
    for (generation, status, remains) in [(4, Status::Retrying, true), (0, Status::Dead(REASON), false)] {
        let mut message = FailedMessage { overtaken: true, ..message(status, false, false) };
        message.record(&attempt(generation, RetryDecision::Dead(REASON))).unwrap();
        assert_eq!(message.overtaken, remains);
    }
}

#[test]
fn only_a_message_that_waits_is_released() {
    for status in STATUSES {
        let mut message = message(status, false, false);
        let released = message.release().is_some();
        assert_eq!(released, status == Status::Waiting, "{status:?}");
        let expected = if released { (Status::Retrying, 5) } else { (status, 4) };
        assert_eq!((message.status, message.generation), expected);
    }
}

#[test]
fn an_edit_of_another_generation_is_skipped() {
    for shown in [3, 5] {
        let skipped = message(Status::Dead(REASON), true, false).apply(&edit(shown));
        assert_eq!(skipped, Err(SkipReason::ChangedSinceShown));
    }
}

#[test]
fn an_attempt_counts_if_its_copy_is_current_or_a_sender_sent_it_again() {
    for status in STATUSES {
        let retrying = status == Status::Retrying;
        for (generation, counts) in
            [(0, !status.is_open()), (1, false), (3, false), (4, retrying), (5, false)]
        {
            for (next, then) in [
                (RetryDecision::Retry(Duration::ZERO), Status::Retrying),
                (RetryDecision::Dead(REASON), Status::Dead(REASON)),
                (RetryDecision::Wait, Status::Waiting),
            ] {
                let mut failed = message(status, false, false);
                let case = format!("{status:?}, generation {generation}, {next:?}");
                let recorded = failed.record(&attempt(generation, next));
                assert_eq!(recorded.is_some(), counts, "{case}");
                let expected = if counts { (then, 1, 5) } else { (status, 3, 4) };
                assert_eq!((failed.status, failed.attempts, failed.generation), expected, "{case}");
            }
        }
    }
}

#[test]
fn a_success_resolves_a_message_in_every_other_status() {
    for status in STATUSES {
        let mut failed = message(status, true, false);
        assert_eq!(failed.resolve().is_some(), status != Status::Resolved, "{status:?}");
        assert_eq!(failed.status, Status::Resolved);
    }
}

#[test]
fn a_copy_that_the_broker_rejects_is_dead_if_it_is_current() {
    for status in STATUSES {
        for generation in [3, 4, 5] {
            let mut failed = message(status, false, true);
            let is_current = status == Status::Retrying && generation == 4;
            assert_eq!(failed.reject(generation).is_some(), is_current, "{status:?}, {generation}");
            let expected = if is_current { Status::Dead(Reason::InvalidMessage) } else { status };
            assert_eq!((failed.status, failed.attempts, failed.generation), (expected, 3, 4));
        }
    }
}

#[test]
fn names_are_unique_and_lead_back_to_their_values() {
    for status in STATUSES {
        assert_eq!(Status::new(status.kind(), status.reason()), Some(status));
        assert_eq!(StatusKind::from_name(status.kind().as_str()), Some(status.kind()));
    }
    for reason in Reason::ALL {
        assert_eq!(Reason::from_name(reason.as_str()), Some(*reason));
    }
    assert_eq!(Reason::from_name("Rejected"), None);
    assert_eq!(Status::new(StatusKind::Dead, None), None);
}

#[test]
fn only_an_edit_has_new_content() {
    let OperatorAction::Edit(content) = edit(4) else { unreachable!("it is an edit") };
    assert_eq!(edit(4).new_content(), Some(&content));
    for action in [
        OperatorAction::Retry,
        OperatorAction::RetryOvertaken,
        OperatorAction::Discard,
        OperatorAction::Restore,
    ] {
        assert_eq!(action.new_content(), None);
    }
}
