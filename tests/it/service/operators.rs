//! What operators do with many failed messages, and what may be in their way.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use allocation::{
    ports::{
        error::{StoreError, error_text},
        failed_messages::{
            ActionResult, Edit, FailedMessageFilter, FailedMessages, Operator, OperatorAction,
        },
    },
    service::{
        decode::DecodeError,
        failed_messages::{self, BulkReport, EditError, act_on_all},
    },
};
use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fakes::{broken, conflict, unavailable};

/// A ledger of so many messages. Every tenth is skipped.
#[derive(Default)]
struct ScriptedLedger {
    messages: i64,
    errors: Mutex<VecDeque<StoreError>>,
    results: Mutex<Vec<(Instant, usize)>>,
    corrected: Mutex<Vec<Edit>>,
}

impl ScriptedLedger {
    fn of(messages: i64, errors: Vec<StoreError>) -> Self {
        Self { messages, errors: Mutex::new(errors.into()), ..Self::default() }
    }

    fn error(&self) -> Result<(), StoreError> {
        self.errors.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    /// How many messages each transaction was about.
    fn portions(&self) -> Vec<usize> {
        self.results.lock().unwrap().iter().map(|(_, count)| *count).collect()
    }
}

#[async_trait]
impl FailedMessages for ScriptedLedger {
    async fn matching(&self, _selection: &FailedMessageFilter) -> Result<Vec<i64>, StoreError> {
        Ok((1..=self.messages).collect())
    }

    async fn apply(
        &self,
        _action: OperatorAction,
        ids: &[i64],
        _selection: &FailedMessageFilter,
        _by: &Operator,
    ) -> Result<Vec<(i64, ActionResult)>, StoreError> {
        self.results.lock().unwrap().push((Instant::now(), ids.len()));
        self.error()?;
        let results = |id: i64| {
            if id % 10 == 0 { ActionResult::Skipped("it is on its way") } else { ActionResult::Applied }
        };
        Ok(ids.iter().map(|id| (*id, results(*id))).collect())
    }

    async fn edit(&self, _id: i64, edit: &Edit, _by: &Operator) -> Result<ActionResult, StoreError> {
        self.corrected.lock().unwrap().push(edit.clone());
        self.error()?;
        Ok(ActionResult::Applied)
    }
}

fn operator() -> Operator {
    Operator { who: "kim".into(), why: None }
}

async fn discard_all(
    ledger: &ScriptedLedger,
    per_second: Option<u32>,
    stop: &CancellationToken,
    report: impl FnMut(&BulkReport, &[(i64, ActionResult)]),
) -> BulkReport {
    let (by, filter) = (operator(), FailedMessageFilter::default());
    act_on_all(ledger, OperatorAction::Discard, &filter, &by, per_second, stop, report).await.unwrap()
}

#[tokio::test]
async fn an_action_on_many_goes_through_them_in_portions() {
    let ledger = ScriptedLedger::of(1200, Vec::new());
    let mut reports = Vec::new();
    let report =
        |report: &BulkReport, portion: &[(i64, ActionResult)]| reports.push((report.done, portion.len()));
    let report = discard_all(&ledger, None, &CancellationToken::new(), report).await;
    assert_eq!(report, BulkReport { matched: 1200, done: 1080, skipped: 120, failed: 0, stopped_by: None });
    assert_eq!(ledger.portions(), [500, 500, 200]);
    assert_eq!(reports, [(450, 500), (900, 500), (1080, 200)]);
}

#[tokio::test]
async fn a_stop_ends_an_action_between_two_portions() {
    let (ledger, stop) = (ScriptedLedger::of(1200, Vec::new()), CancellationToken::new());
    let report = discard_all(&ledger, None, &stop, |_, _| stop.cancel()).await;
    assert_eq!(report, BulkReport { matched: 1200, done: 450, skipped: 50, failed: 700, stopped_by: None });
    assert_eq!(ledger.portions(), [500]);
    let ledger = ScriptedLedger::of(5, Vec::new());
    assert_eq!(discard_all(&ledger, None, &stop, |_, _| ()).await.done, 0, "stopped before it began");
}

#[tokio::test(start_paused = true)]
async fn an_action_is_tried_again_after_a_conflict() {
    let ledger = ScriptedLedger::of(600, vec![conflict(); 6]);
    let report = discard_all(&ledger, None, &CancellationToken::new(), |_, _| ()).await;
    assert_eq!((report.done, report.stopped_by), (540, None));
    assert_eq!(ledger.portions(), [500, 500, 500, 500, 500, 500, 500, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_lasts_and_any_other_error_stop_an_action_and_are_reported() {
    for (errors, asked) in [(vec![conflict(); 7], 7), (vec![unavailable()], 1), (vec![broken()], 1)] {
        let expected = error_text(&errors[0]);
        let ledger = ScriptedLedger::of(600, errors);
        let report = discard_all(&ledger, None, &CancellationToken::new(), |_, _| ()).await;
        let stopped_by = Some(expected);
        assert_eq!(report, BulkReport { matched: 600, done: 0, skipped: 0, failed: 600, stopped_by });
        assert_eq!(ledger.portions().len(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept() {
    let ledger = ScriptedLedger::of(95, Vec::new());
    let begin = Instant::now();
    discard_all(&ledger, Some(50), &CancellationToken::new(), |_, _| ()).await;
    assert_eq!(ledger.portions(), [5; 19]);
    assert_eq!(begin.elapsed().as_millis() / 10, 180, "19 portions are 18 pauses of 0.1 s");
    let times: Vec<_> = ledger.results.lock().unwrap().iter().map(|(time, _)| *time).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(99)));
}

const LINE: &str = r#"{"orderid": "o-1", "sku": "LAMP", "qty": 1}"#;

async fn edit(
    ledger: &ScriptedLedger,
    kind: &str,
    message_id: &str,
    body: &str,
) -> Result<ActionResult, EditError> {
    failed_messages::edit(ledger, 1, 3, kind, message_id, body.as_bytes(), &operator()).await
}

#[tokio::test]
async fn an_edit_that_makes_no_valid_command_is_refused_before_the_ledger_is_asked() {
    let ledger = ScriptedLedger::default();
    let long = "x".repeat(201);
    let cases = [
        ("allocate", "", LINE, DecodeError::MissingMessageId),
        ("allocate", "  ", LINE, DecodeError::InvalidMessageId),
        ("allocate", "m\u{7}", LINE, DecodeError::InvalidMessageId),
        ("allocate", &long, LINE, DecodeError::InvalidMessageId),
        ("allocate", "m1", "[]", DecodeError::InvalidBody("the body must be a JSON object".into())),
    ];
    for (kind, message_id, body, expected) in cases {
        let refused = edit(&ledger, kind, message_id, body).await;
        assert!(matches!(&refused, Err(EditError::Invalid(is)) if *is == expected), "{refused:?}");
    }
    let refused = edit(&ledger, "order", "m1", LINE).await;
    assert!(matches!(refused, Err(EditError::Invalid(DecodeError::UnknownCommand(_)))), "{refused:?}");
    assert!(ledger.corrected.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_edit_is_tried_again_after_a_conflict_and_says_what_it_is_about() {
    let ledger = ScriptedLedger::of(1, vec![conflict(); 6]);
    assert_eq!(edit(&ledger, "allocate", "m1", LINE).await.unwrap(), ActionResult::Applied);
    let asked = ledger.corrected.lock().unwrap().clone();
    assert_eq!(asked.len(), 7);
    assert_eq!((asked[6].shown_generation, &*asked[6].message_id, &*asked[6].kind), (3, "m1", "allocate"));
    let lasting = ScriptedLedger::of(1, vec![conflict(); 7]);
    let reported = edit(&lasting, "allocate", "m1", LINE).await;
    assert!(matches!(reported, Err(EditError::Store(StoreError::Conflict(_)))), "{reported:?}");
}
