//! Random attempts, successes and operator actions: the rows of the database follow the decisions of the domain.

use std::time::Duration;

use allocation::{
    domain::{
        BodyHash, Edit, FailedMessage, FailedMessageKey, MessageKey, NewAttempt, OperatorAction, Reason,
        RetryDecision, SkipReason, StatusKind,
    },
    ports::{
        failed_messages::{ActionResult, FailedMessageFilter, FailedMessages as _},
        outbox::LeaderSession,
        queue::QueueName,
        store::ChangeSet,
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};

use crate::harness::Database;

use super::{failed_message_key, failure, operator};

const MESSAGES: usize = 2;
/// The seed of the random cases, so that every run has the same ones. `PROPTEST_RNG_SEED` selects others.
const SEED: u64 = 3;

#[derive(Clone, Copy, Debug)]
enum Copy {
    FromSender,
    Current,
    Outdated,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Retry,
    Discard,
    Restore,
    Edit,
    EditOutdated,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// An attempt fails, and is the last one if `dead`.
    Fails { copy: Copy, dead: bool },
    /// A unit of work handles the message.
    IsHandled,
    /// An operator acts on it.
    Act(Action),
    /// The relay publishes the copies that are due.
    RelayPublishes,
    /// Two minutes pass.
    TimePasses,
}

fn events() -> impl Strategy<Value = (usize, Event)> {
    let copy = prop_oneof![2 => Just(Copy::FromSender), 3 => Just(Copy::Current), 1 => Just(Copy::Outdated)];
    let action = prop_oneof![
        5 => Just(Action::Retry),
        2 => Just(Action::Discard),
        2 => Just(Action::Restore),
        1 => Just(Action::Edit),
        1 => Just(Action::EditOutdated),
    ];
    let event = prop_oneof![
        5 => (copy, any::<bool>()).prop_map(|(copy, dead)| Event::Fails { copy, dead }),
        1 => Just(Event::IsHandled),
        8 => action.prop_map(Event::Act),
        1 => Just(Event::RelayPublishes),
        1 => Just(Event::TimePasses),
    ];
    (0..MESSAGES, event)
}

/// A message as the test expects it.
struct Expected {
    message_id: String,
    body: u8,
    in_inbox: bool,
    row: Option<FailedMessage>,
    /// Whether the relay will publish a copy at once.
    is_due: bool,
    /// Recorded attempts and actions.
    attempts: i64,
    actions: i64,
}

impl Expected {
    fn key(&self) -> FailedMessageKey {
        failed_message_key(Some(&self.message_id), "allocate", self.body)
    }

    /// The attempt, and whether it is recorded.
    fn fail(&mut self, copy: Copy, dead: bool) -> NewAttempt {
        let generation = match (copy, &self.row) {
            (Copy::FromSender, _) | (_, None) => 0,
            (Copy::Current, Some(row)) => row.generation,
            (Copy::Outdated, Some(row)) => row.generation - 1,
        };
        let next = if dead {
            RetryDecision::Dead(Reason::CrashLoop)
        } else {
            RetryDecision::Retry(Duration::from_hours(10))
        };
        let attempt = NewAttempt { attempts: 1 + self.counted(), ..failure(self.key(), generation, next) };
        let recorded = if let Some(row) = &mut self.row {
            row.record(&attempt).is_some()
        } else {
            self.row = Some(FailedMessage::new(0, &attempt));
            true
        };
        if recorded {
            self.attempts += 1;
            self.schedule(false);
        }
        attempt
    }

    fn counted(&self) -> u32 {
        let retrying = |row: &&FailedMessage| row.status.kind() == StatusKind::Retrying;
        self.row.as_ref().filter(retrying).map_or(0, |row| row.attempts)
    }

    fn schedule(&mut self, is_due: bool) {
        self.is_due = is_due;
        self.row.as_mut().unwrap().scheduled_recently = is_due;
    }

    fn handle(&mut self) {
        self.in_inbox = true;
        self.row.as_mut().map(FailedMessage::resolve);
    }

    fn publish(&mut self) {
        let is_retrying = |row: &&mut FailedMessage| row.status.kind() == StatusKind::Retrying;
        if let Some(row) = self.row.as_mut().filter(is_retrying)
            && std::mem::take(&mut self.is_due)
        {
            row.scheduled_recently = true;
        }
    }

    fn act(&mut self, action: &OperatorAction) -> ActionResult {
        let Some(row) = &mut self.row else { return ActionResult::Skipped(SkipReason::NotFound) };
        row.handled = self.in_inbox;
        match row.apply(action) {
            Ok(transition) => {
                self.actions += 1;
                self.schedule(transition.status.kind() == StatusKind::Retrying);
                if let Some(content) = action.new_content() {
                    self.message_id.clone_from(&content.message_id);
                    self.body = content.body_hash.0[0];
                    self.in_inbox = false;
                }
                ActionResult::Applied
            }
            Err(reason) => {
                row.resolve_skipped(action);
                ActionResult::Skipped(reason)
            }
        }
    }
}

fn operator_action(action: Action, number: usize, expected: &Expected) -> OperatorAction {
    let generation = expected.row.as_ref().map_or(1, |row| row.generation);
    let edit = |shown_generation| {
        OperatorAction::Edit(Edit {
            shown_generation,
            kind: "allocate".into(),
            message_id: format!("edited-{number}"),
            body: b"edited".into(),
            body_hash: BodyHash([9; 16]),
            ordering_key: None,
            even_overtaken: false,
        })
    };
    match action {
        Action::Retry => OperatorAction::Retry,
        Action::Discard => OperatorAction::Discard,
        Action::Restore => OperatorAction::Restore,
        Action::Edit => edit(generation),
        Action::EditOutdated => edit(generation - 1),
    }
}

async fn id_of(db: &Database, expected: &Expected) -> i64 {
    let id = "select coalesce((select id from failed_messages where message_id = $1), -1)";
    sqlx::query_scalar(id).bind(&expected.message_id).fetch_one(&db.pool).await.unwrap()
}

async fn execute(
    db: &Database,
    session: &mut dyn LeaderSession,
    number: usize,
    event: Event,
    of: &mut Expected,
) {
    match event {
        Event::Fails { copy, dead } => {
            let failures = vec![of.fail(copy, dead)];
            db.commit(QueueName::Orders, &[], ChangeSet { failures, ..ChangeSet::default() }).await;
        }
        Event::IsHandled => {
            let message_id = of.message_id.as_str().into();
            let key = MessageKey { message_id, kind: "allocate", body_hash: BodyHash([of.body; 16]) };
            let handled = vec![key.message_id.clone()];
            db.commit(QueueName::Orders, &[key], ChangeSet { handled, ..ChangeSet::default() }).await;
            of.handle();
        }
        Event::Act(action) => {
            let id = id_of(db, of).await;
            let action = operator_action(action, number, of);
            let all = FailedMessageFilter::default();
            let results = db.failed_messages().apply(&action, &[id], &all, &operator()).await.unwrap();
            assert_eq!(results, [(id, of.act(&action))], "{action:?}");
        }
        Event::RelayPublishes => {
            let retries = session.due(10, usize::MAX).await.unwrap();
            session.published(&retries.iter().collect::<Vec<_>>()).await.unwrap();
        }
        Event::TimePasses => {
            db.execute(
                "update failed_messages set due_at = due_at - interval '2 minutes',
                     published_at = published_at - interval '2 minutes'",
            )
            .await;
        }
    }
}

/// The status, the reason, the counted attempts, the generation, and the numbers of recorded attempts and actions.
type Row = (String, Option<String>, i32, i64, i64, i64);

async fn assert_row(db: &Database, expected: &Expected) {
    let row: Option<Row> = sqlx::query_as(
        "select status, reason, attempts, generation,
                (select count(*) from failed_attempts a where a.failed_message_id = f.id),
                (select count(*) from failed_actions a where a.failed_message_id = f.id)
         from failed_messages f where message_id = $1",
    )
    .bind(&expected.message_id)
    .fetch_optional(&db.pool)
    .await
    .unwrap();
    let model = expected.row.as_ref().map(|row| {
        let reason = row.status.reason().map(|reason| reason.as_str().to_owned());
        let attempts = i32::try_from(row.attempts).unwrap();
        let status = row.status.kind().as_str().to_owned();
        (status, reason, attempts, row.generation, expected.attempts, expected.actions)
    });
    assert_eq!(row, model);
}

async fn compare(db: &Database, events: &[(usize, Event)]) {
    db.execute("truncate failed_messages, inbox cascade").await;
    let mut session = db.lead().await;
    let mut messages = ["m1", "m2"].map(|message_id| Expected {
        message_id: message_id.into(),
        body: 1,
        in_inbox: false,
        row: None,
        is_due: false,
        attempts: 0,
        actions: 0,
    });
    for (number, (message, event)) in events.iter().enumerate() {
        execute(db, &mut *session, number, *event, &mut messages[*message]).await;
        for expected in &mut messages {
            match (event, &mut expected.row) {
                (Event::TimePasses, Some(row)) => row.scheduled_recently = false,
                (Event::RelayPublishes, _) => expected.publish(),
                _ => {}
            }
            assert_row(db, expected).await;
        }
    }
    session.release().await;
}

#[test]
fn random_attempts_and_actions_change_rows_as_the_domain_decides() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let db = runtime.block_on(Database::new());
    let defaults = ProptestConfig::default();
    let seed = match defaults.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SEED,
    };
    let config = ProptestConfig {
        cases: 30,
        max_shrink_iters: 200,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..defaults
    };
    let outcome = TestRunner::new(config).run(&vec(events(), 1..25), |events| {
        runtime.block_on(compare(&db, &events));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("PROPTEST_RNG_SEED={seed}: {failure}"));
}
