//! What operators ask about a queue or an order: observes everything at once, each part within a time limit of its own.

use std::time::Duration;

use crate::{
    adapters::{postgres::observe_state, rabbitmq::RabbitQueueObserver},
    ports::{
        diagnosis::{DatabaseCondition, Observed, QueueObservations, QueueObserver as _},
        error::{StoreError, error_text},
        processes::HEARTBEAT_INTERVAL,
        queue::QueueName,
    },
    service::diagnosis::{OrderDiagnosis, QueueDiagnosis, ReasonCode, diagnose, diagnose_order},
    views::Views,
};

use super::app::App;

/// How long one observation of the database may take.
const TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Why a queue does not move. What processes report is some seconds old: before messages wait without a reason, it is
    /// observed once more.
    pub async fn diagnose_queue(&self, queue: QueueName) -> QueueDiagnosis {
        let first = self.observe_queue(queue).await;
        if !first.has(ReasonCode::Unexplained) {
            return first;
        }
        tokio::time::sleep(HEARTBEAT_INTERVAL + Duration::from_secs(1)).await;
        self.observe_queue(queue).await
    }

    async fn observe_queue(&self, queue: QueueName) -> QueueDiagnosis {
        let observer = RabbitQueueObserver(self.broker.clone());
        let (broker, database) = tokio::join!(observer.observe(queue), self.database_condition());
        let unknown = database.is_err().then(|| "the database cannot be used".to_owned());
        let views = &Views::new(self.pool.clone(), self.settings.namespace.clone(), TIMEOUT);
        let (processes, locks, work) = tokio::join!(
            within(unknown.as_ref(), views.processes()),
            within(unknown.as_ref(), views.locks()),
            within(unknown.as_ref(), views.queue_backlog(queue)),
        );
        let observations = QueueObservations {
            queue,
            database,
            broker,
            processes,
            locks,
            work,
            stalled_after: self.partition_stall_timeout(),
        };
        diagnose(&self.settings.namespace, &observations)
    }

    /// A session of its own: the pool would wait for a free connection, and not say why there is none.
    pub(super) async fn database_condition(&self) -> Observed<DatabaseCondition> {
        let state = within(None, observe_state(&self.pg)).await?;
        Ok(match state.check(&self.settings.namespace) {
            Err(unusable) => DatabaseCondition::Unusable(unusable.to_string()),
            Ok(()) if state.read_only => DatabaseCondition::ReadOnly,
            Ok(()) => DatabaseCondition::Usable,
        })
    }

    /// Why the lines of an order are not allocated.
    ///
    /// # Errors
    /// The database is unavailable.
    pub async fn diagnose_order(&self, orderid: &str) -> anyhow::Result<OrderDiagnosis> {
        let views = self.views();
        let lines = views.order_lines(orderid).await?;
        let failed = views.failed_messages_of_order(orderid).await?;
        Ok(diagnose_order(orderid, lines, failed))
    }
}

/// The answer, unless it takes too long or is unknown without asking.
pub(super) async fn within<T>(
    unknown: Option<&String>,
    answer: impl Future<Output = Result<T, StoreError>>,
) -> Observed<T> {
    if let Some(because) = unknown {
        return Err(because.clone());
    }
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| error_text(&error)),
        Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
    }
}
