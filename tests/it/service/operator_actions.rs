//! Operator actions: batches, rate, stop, conflicts, and the validation of edits.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use allocation::{
    domain::{Edit, OperatorAction, SkipReason},
    ports::{
        error::{StoreError, error_text},
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages, Operator},
    },
    service::{
        decode_error::DecodeError,
        failed_messages::{self, BulkReport, Content, EditError, EditRequest, apply_to_matching},
    },
};
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fakes::{LIMITS, broken, conflict, unavailable};

/// Every tenth message is skipped.
#[derive(Default)]
struct ScriptedFailedMessages {
    messages: i64,
    errors: Mutex<VecDeque<StoreError>>,
    calls: Mutex<Vec<(Instant, OperatorAction, Vec<i64>)>>,
}

impl ScriptedFailedMessages {
    fn new(messages: i64, errors: Vec<StoreError>) -> Self {
        Self { messages, errors: Mutex::new(errors.into()), ..Self::default() }
    }

    /// The number of messages of each transaction.
    fn batch_sizes(&self) -> Vec<usize> {
        self.calls.lock().unwrap().iter().map(|(_, _, ids)| ids.len()).collect()
    }

    fn edits(&self) -> Vec<Edit> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter_map(|(_, action, _)| action.new_content().cloned()).collect()
    }
}

#[async_trait]
impl FailedMessages for ScriptedFailedMessages {
    async fn matching(&self, _filter: &FailedMessageFilter) -> Result<Vec<i64>, StoreError> {
        Ok((1..=self.messages).collect())
    }

    async fn apply(
        &self,
        action: &OperatorAction,
        ids: &[i64],
        _filter: &FailedMessageFilter,
        _by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError> {
        self.calls.lock().unwrap().push((Instant::now(), action.clone(), ids.to_owned()));
        self.errors.lock().unwrap().pop_front().map_or(Ok(()), Err)?;
        let skipped = ActionResult::Skipped(SkipReason::RetryScheduled);
        let result = |id: i64| if id % 10 == 0 { skipped } else { ActionResult::Applied };
        Ok(ids.iter().map(|id| (*id, result(*id))).collect())
    }
}

fn operator() -> Operator {
    Operator { who: "kim".into(), why: None }
}

async fn discard_all(
    failed_messages: &ScriptedFailedMessages,
    per_second: Option<u32>,
    stop: &CancellationToken,
    on_progress: impl FnMut(&BulkReport, &[(i64, ActionResult)]),
) -> BulkReport {
    let (by, filter) = (operator(), FailedMessageFilter::default());
    let discard = OperatorAction::Discard;
    let applied = apply_to_matching(failed_messages, &discard, &filter, &by, per_second, stop, on_progress);
    applied.await.unwrap()
}

#[tokio::test]
async fn an_action_on_many_messages_is_applied_in_batches() {
    let failed_messages = ScriptedFailedMessages::new(1200, Vec::new());
    let mut progress = Vec::new();
    let on_progress =
        |report: &BulkReport, results: &[(i64, ActionResult)]| progress.push((report.done, results.len()));
    let report = discard_all(&failed_messages, None, &CancellationToken::new(), on_progress).await;
    assert_eq!(report, BulkReport { matched: 1200, done: 1080, skipped: 120, failed: 0, stopped_by: None });
    assert_eq!(failed_messages.batch_sizes(), [500, 500, 200]);
    assert_eq!(progress, [(450, 500), (900, 500), (1080, 200)]);
}

#[tokio::test]
async fn a_stop_ends_an_action_between_two_batches() {
    let (failed_messages, stop) = (ScriptedFailedMessages::new(1200, Vec::new()), CancellationToken::new());
    let report = discard_all(&failed_messages, None, &stop, |_, _| stop.cancel()).await;
    assert_eq!(report, BulkReport { matched: 1200, done: 450, skipped: 50, failed: 700, stopped_by: None });
    assert_eq!(failed_messages.batch_sizes(), [500]);
    let failed_messages = ScriptedFailedMessages::new(5, Vec::new());
    assert_eq!(discard_all(&failed_messages, None, &stop, |_, _| ()).await.done, 0, "stopped at the start");
}

#[tokio::test(start_paused = true)]
async fn an_action_is_tried_again_after_a_conflict() {
    let failed_messages = ScriptedFailedMessages::new(600, vec![conflict(); 6]);
    let report = discard_all(&failed_messages, None, &CancellationToken::new(), |_, _| ()).await;
    assert_eq!((report.done, report.stopped_by), (540, None));
    assert_eq!(failed_messages.batch_sizes(), [500, 500, 500, 500, 500, 500, 500, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_conflict_and_any_other_error_stop_an_action_and_are_reported() {
    for (errors, calls) in [(vec![conflict(); 7], 7), (vec![unavailable()], 1), (vec![broken()], 1)] {
        let expected = error_text(&errors[0]);
        let failed_messages = ScriptedFailedMessages::new(600, errors);
        let report = discard_all(&failed_messages, None, &CancellationToken::new(), |_, _| ()).await;
        let stopped_by = Some(expected);
        assert_eq!(report, BulkReport { matched: 600, done: 0, skipped: 0, failed: 600, stopped_by });
        assert_eq!(failed_messages.batch_sizes().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_keeps_its_rate() {
    let failed_messages = ScriptedFailedMessages::new(95, Vec::new());
    let begin = Instant::now();
    discard_all(&failed_messages, Some(50), &CancellationToken::new(), |_, _| ()).await;
    assert_eq!(failed_messages.batch_sizes(), [5; 19]);
    assert_eq!(begin.elapsed().as_millis() / 10, 180, "19 batches have 18 pauses of 0.1 s");
    let times: Vec<_> = failed_messages.calls.lock().unwrap().iter().map(|(time, ..)| *time).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(99)));
}

const LINE: &str = r#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#;

/// Edits a message of the queue `orders`.
async fn edit(
    failed_messages: &ScriptedFailedMessages,
    kind: &str,
    message_id: &str,
    body: &str,
) -> Result<ActionResult, EditError> {
    let shown = Content { kind: "alocate".into(), message_id: "m1".into(), body: LINE.into() };
    let edited = Content { kind: kind.into(), message_id: message_id.into(), body: body.into() };
    let queue = "orders".into();
    let request = EditRequest { id: 1, queue, shown_generation: 3, shown, edited, even_overtaken: false };
    failed_messages::edit(failed_messages, LIMITS, request, &operator()).await
}

#[tokio::test]
async fn an_edit_that_is_not_a_valid_command_is_rejected_before_the_store_is_asked() {
    let failed_messages = ScriptedFailedMessages::default();
    let long = "x".repeat(201);
    let cases = [
        ("allocate", "", LINE, DecodeError::MissingMessageId),
        ("allocate", "  ", LINE, DecodeError::InvalidMessageId),
        ("allocate", "m\u{7}", LINE, DecodeError::InvalidMessageId),
        ("allocate", &long, LINE, DecodeError::InvalidMessageId),
        ("allocate", "m1", "[]", DecodeError::InvalidBody("the body must be a JSON object".into())),
    ];
    for (kind, message_id, body, expected) in cases {
        let rejected = edit(&failed_messages, kind, message_id, body).await;
        assert!(matches!(&rejected, Err(EditError::Invalid(is)) if *is == expected), "{rejected:?}");
    }
    let rejected = edit(&failed_messages, "order", "m1", LINE).await;
    assert!(matches!(rejected, Err(EditError::Invalid(DecodeError::UnknownCommand(_)))), "{rejected:?}");
    assert_eq!(failed_messages.edits(), []);
}

/// An editor may lay out JSON in another way: the stored bytes stay.
#[tokio::test]
async fn an_edit_that_changes_nothing_is_not_applied() {
    let failed_messages = ScriptedFailedMessages::new(1, Vec::new());
    for body in [LINE, "{\n  \"orderid\": \"o-1\",\n  \"qty\": 1, \"sku\": \"LAMP\"\n}\n"] {
        let unchanged = edit(&failed_messages, "alocate", "m1", body).await;
        assert!(matches!(unchanged, Err(EditError::Unchanged)), "{unchanged:?}");
    }
    assert_eq!(failed_messages.edits(), []);
    let indented = LINE.replace(", ", ",\n  ");
    assert_eq!(edit(&failed_messages, "allocate", "m1", &indented).await.unwrap(), ActionResult::Applied);
    let edits = failed_messages.edits();
    assert_eq!((&*edits[0].kind, &edits[0].body[..]), ("allocate", LINE.as_bytes()));
}

/// Otherwise the consumer of the queue would record the edited message as a dead letter again.
#[tokio::test]
async fn an_edit_to_a_type_of_another_queue_is_rejected() {
    let failed_messages = ScriptedFailedMessages::new(1, Vec::new());
    let batch = r#"{"ref": "b-1", "sku": "LAMP", "qty": 1}"#;
    let change = r#"{"batchref": "b-1", "qty": 1}"#;
    for (kind, body) in [("create_batch", batch), ("change_batch_quantity", change), ("out_of_stock", LINE)] {
        let rejected = edit(&failed_messages, kind, "m1", body).await;
        assert!(matches!(&rejected, Err(EditError::WrongQueue { .. })), "{kind}: {rejected:?}");
    }
    assert_eq!(failed_messages.edits(), []);
    for kind in ["allocate", "deallocate"] {
        assert_eq!(edit(&failed_messages, kind, "m1", LINE).await.unwrap(), ActionResult::Applied);
    }
}

#[tokio::test]
async fn an_edit_to_a_body_above_the_limit_is_rejected() {
    let failed_messages = ScriptedFailedMessages::new(1, Vec::new());
    let padded = |size: usize| format!("{}{}", LINE.replace('1', "2"), " ".repeat(size - LINE.len()));
    let limit = LIMITS.body_bytes;
    let rejected = edit(&failed_messages, "allocate", "m1", &padded(limit + 1)).await;
    let is_too_large = |error: &EditError| matches!(error, EditError::Invalid(DecodeError::TooLarge { size, .. }) if *size == limit + 1);
    assert!(rejected.as_ref().is_err_and(is_too_large), "{rejected:?}");
    assert_eq!(failed_messages.edits(), []);
    let applied = edit(&failed_messages, "allocate", "m1", &padded(limit)).await;
    assert_eq!(applied.unwrap(), ActionResult::Applied);
}

#[tokio::test(start_paused = true)]
async fn an_edit_is_tried_again_after_a_conflict() {
    let failed_messages = ScriptedFailedMessages::new(1, vec![conflict(); 6]);
    assert_eq!(edit(&failed_messages, "allocate", "m1", LINE).await.unwrap(), ActionResult::Applied);
    let edits = failed_messages.edits();
    assert_eq!(edits.len(), 7);
    assert_eq!((edits[6].shown_generation, &*edits[6].message_id, &*edits[6].kind), (3, "m1", "allocate"));
    assert_eq!(failed_messages.calls.lock().unwrap()[6].2, [1]);
    let lasting = ScriptedFailedMessages::new(1, vec![conflict(); 7]);
    let outcome = edit(&lasting, "allocate", "m1", LINE).await;
    assert!(matches!(outcome, Err(EditError::Store(StoreError::Conflict(_)))), "{outcome:?}");
}
