//! A database with stock and dead letters, the bus, and retries without a broker.

use std::{collections::BTreeMap, sync::Arc};

use allocation::{
    adapters::{memory::RecordingNotifier, postgres::PgDryRuns, rabbitmq::RabbitRetryDelivery},
    domain::{FailedMessageKey, OperatorAction},
    ports::{
        dry_run::RetryDelivery as _,
        failed_messages::{ActionResult, DueRetry, FailedMessageFilter, FailedMessages as _, Operator},
        queue::QueueName,
    },
    service::{
        body::read_body,
        decode::body_hash,
        outcome::CommandOutcome,
        received::ReceivedMessage,
        trial::{Trial, TrialOptions, TrialReport},
    },
};
use serde_json::{Value, json};

use crate::harness::{
    Command, Database, HandleAll as _, LIMITS, allocate, bus, create_batch, dump, notification_handler,
    policy, queue_of, received,
};

/// The recipients of mails.
pub(super) const MAIL_TO: &str = "stock@example.com";

pub(super) struct World {
    pub(super) db: Database,
}

/// A line or a batch, and where or how much it is.
pub(super) type Places = BTreeMap<String, Value>;

impl World {
    /// LAMP has a batch with 3 of 20 allocated, VASE a backorder of 100 and no stock, RUG two backorders.
    pub(super) async fn new() -> Self {
        let world = Self { db: Database::new().await };
        world.seed().await;
        world
    }

    async fn seed(&self) {
        let commands = [
            create_batch("lamp-1", "LAMP", 20),
            create_batch("vase-1", "VASE", 1),
            create_batch("rug-1", "RUG", 5),
            allocate("old", "LAMP", 3),
            allocate("large", "VASE", 100),
            allocate("rug-a", "RUG", 5),
            allocate("rug-b", "RUG", 2),
            allocate("rug-c", "RUG", 3),
        ];
        for command in &commands {
            self.handle(command).await;
        }
        self.db.execute("delete from outbox; delete from inbox").await;
    }

    /// Removes everything, and begins again.
    pub(super) async fn reset(&self) {
        let tables =
            "truncate products, batches, order_lines, allocations_view, inbox, outbox, message_starts,
                      failed_messages, failed_attempts, failed_actions";
        self.db.execute(tables).await;
        self.seed().await;
    }

    pub(super) async fn handle(&self, command: &Command) {
        let message = crate::harness::message(&command.message_id, command.kind, &command.body);
        let outcomes =
            bus(self.db.store()).handle_all(queue_of(command), &mut [received(message)]).await.unwrap();
        assert!(matches!(outcomes[..], [CommandOutcome::Handled]), "{outcomes:?}");
    }

    /// Inserts a dead letter with this content.
    pub(super) async fn dead(&self, queue: &str, kind: &str, body: &[u8], reason: &str) -> i64 {
        let key = read_body(kind, body).ok().and_then(|content| content.ordering_key());
        let FailedMessageKey { body_hash, .. } =
            FailedMessageKey { message_id: None, kind: kind.into(), body_hash: body_hash(body) };
        let insert = sqlx::query_scalar(
            "insert into failed_messages (queue, message_id, fingerprint, type, body, properties, original, status,
                 reason, error, error_pattern, error_group, attempts, generation, key)
             values ($1, 'm-' || nextval('failed_messages_id_seq'), $2, $3, $4, '{}', '', 'dead', $5, 'the last error',
                 '', 'g', 3, 4, $6)
             returning id",
        );
        let insert = insert.bind(queue).bind(&body_hash.0[..]).bind(kind).bind(body).bind(reason);
        insert.bind(key.map(|key| key.as_str().to_owned())).fetch_one(&self.db.pool).await.unwrap()
    }

    pub(super) async fn dead_command(&self, command: &Command, reason: &str) -> i64 {
        self.dead(command.queue(), command.kind, command.body.to_string().as_bytes(), reason).await
    }

    pub(super) fn trial(&self) -> Trial {
        Trial {
            dry_runs: Arc::new(PgDryRuns::new(self.db.pool.clone(), &self.db.config())),
            delivery: Arc::new(RabbitRetryDelivery),
            policy: policy(),
            limits: LIMITS,
            mail_to: MAIL_TO.into(),
        }
    }

    /// The reports of a trial that changes nothing.
    pub(super) async fn tried(&self, ids: &[i64], options: TrialOptions) -> Vec<TrialReport> {
        self.tried_by(&self.trial(), ids, options).await
    }

    pub(super) async fn tried_by(
        &self,
        trial: &Trial,
        ids: &[i64],
        options: TrialOptions,
    ) -> Vec<TrialReport> {
        let before = dump(&self.db.pool).await;
        let reports = trial.run(ids, options).await.unwrap();
        assert_eq!(dump(&self.db.pool).await, before, "a trial changed a table");
        reports
    }

    /// Retries messages as an operator, the relay and a worker do. The outcome of each that is not skipped.
    pub(super) async fn retried(&self, ids: &[i64], action: OperatorAction) -> BTreeMap<i64, CommandOutcome> {
        let by = Operator { who: "test".into(), why: None };
        let filter = FailedMessageFilter::default();
        let results = self.db.failed_messages().apply(&action, ids, &filter, &by).await.unwrap();
        let mut outcomes = BTreeMap::new();
        if results.iter().all(|(_, result)| *result != ActionResult::Applied) {
            return outcomes;
        }
        let mut leader = self.db.lead().await;
        loop {
            let due = leader.due(1000, usize::MAX).await.unwrap();
            if due.is_empty() {
                return outcomes;
            }
            leader.published(&due.iter().collect::<Vec<_>>()).await.unwrap();
            for group in due.chunk_by(|one, next| one.queue == next.queue) {
                outcomes.extend(self.deliver(group).await);
            }
        }
    }

    async fn deliver(&self, copies: &[DueRetry]) -> Vec<(i64, CommandOutcome)> {
        let queue = QueueName::ALL.into_iter().find(|queue| queue.as_str() == copies[0].queue).unwrap();
        let read = |copy: &DueRetry| {
            ReceivedMessage::read(queue, RabbitRetryDelivery.delivered(copy), false, LIMITS)
        };
        let mut messages: Vec<_> = copies.iter().map(read).collect();
        let store = self.db.store();
        let outcomes = match queue {
            QueueName::Notifications => {
                let handler = notification_handler(store, RecordingNotifier::default());
                handler.handle_all(queue, &mut messages).await.unwrap()
            }
            QueueName::Orders | QueueName::Stock => {
                bus(store).handle_all(queue, &mut messages).await.unwrap()
            }
        };
        let ids = copies.iter().map(|copy| copy.id).collect();
        allocation::ports::answered::Answered::new(ids, outcomes).unwrap().into_iter().collect()
    }

    /// Every line with its place.
    pub(super) async fn lines(&self) -> Places {
        self.places(
            "select orderid || ' ' || sku, jsonb_build_object('qty', qty, 'place', jsonb_build_object(
                 'status', case when batchref is null then 'backordered' else 'allocated' end, 'batchref', batchref))::text
             from order_lines",
        )
        .await
    }

    /// Every batch with its quantities: allocated, purchased.
    pub(super) async fn batches(&self) -> Places {
        self.places("select ref, jsonb_build_array(allocated, purchased)::text from batches").await
    }

    /// The unpublished events.
    pub(super) async fn events(&self) -> Vec<Value> {
        let rows: Vec<(String, String, i64, String)> =
            sqlx::query_as("select name, sku, sequence, body from outbox order by id")
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
        let event = |(kind, sku, sequence, body): (String, String, i64, String)| {
            let body: Value = serde_json::from_str(&body).unwrap();
            json!({ "type": kind, "sku": sku, "sequence": sequence, "body": body })
        };
        rows.into_iter().map(event).collect()
    }

    async fn places(&self, query: &str) -> Places {
        let rows: Vec<(String, String)> = sqlx::query_as(query).fetch_all(&self.db.pool).await.unwrap();
        rows.into_iter().map(|(name, place)| (name, serde_json::from_str(&place).unwrap())).collect()
    }
}
