//! Reasons outside of the program: servers, the queue, the schema, and space.

use crate::ports::{
    diagnosis::{BrokerQueue, DatabaseCondition, QueueObservations},
    processes::{STORAGE_FULL, UnavailableServer},
    queue::QueueName,
};

use super::{
    consumers::consumers,
    reason::{Finding, ReasonCode, Verdict},
};

/// The beginning of the broker's reply about a queue that it does not have. Processes report it as an outage of the broker.
const NO_QUEUE: &str = "NOT_FOUND";

pub(super) fn database_away(observed: &QueueObservations) -> Verdict {
    let fix = "repair the database or the network. Nothing is lost and no attempt is counted; processing continues by itself";
    let found = |evidence: String| Ok(Some(Finding::new(ReasonCode::DatabaseAway, evidence, fix)));
    match &observed.database {
        Err(error) => found(error.clone()),
        Ok(DatabaseCondition::ReadOnly) => {
            found("it accepts no writes: it is a standby, or default_transaction_read_only is on".into())
        }
        Ok(DatabaseCondition::Usable | DatabaseCondition::Unusable(_)) => {
            match reported(observed, "database", |_| true) {
                Some(evidence) => found(evidence),
                None => Ok(None),
            }
        }
    }
}

pub(super) fn broker_away(observed: &QueueObservations) -> Verdict {
    let fix = "repair the broker or the network. Nothing is lost; processes connect by themselves";
    let error = observed.broker.as_ref().err().cloned();
    let error = error.or_else(|| reported(observed, "broker", |error| !error.contains(NO_QUEUE)));
    Ok(error.map(|evidence| Finding::new(ReasonCode::BrokerAway, evidence, fix)))
}

pub(super) fn broker_alarm(observed: &QueueObservations) -> Verdict {
    let finding = Finding::new(
        ReasonCode::BrokerAlarm,
        "the broker accepts connections and reads nothing from publishers: memory or disk space is in alarm",
        "free memory or disk space of the broker: rabbitmq-diagnostics alarms. Events and retries wait, nothing is lost",
    );
    Ok(observed.broker_alarm()?.then_some(finding))
}

pub(super) fn queue_missing(observed: &QueueObservations) -> Verdict {
    let finding = Finding::new(
        ReasonCode::QueueMissing,
        "the broker has no such queue. What senders send to it is returned to them, or lost if they do not ask",
        "allocation topology",
    );
    Ok((observed.broker_queue()? == BrokerQueue::Missing).then_some(finding))
}

pub(super) fn schema_differs(observed: &QueueObservations) -> Verdict {
    let fix = "follow the text on the left; after `allocation migrate`, run processes of the same version everywhere";
    let database = observed.database.clone().map_err(|_| "the database cannot be used".to_owned())?;
    Ok(match database {
        DatabaseCondition::Unusable(why) => Some(Finding::new(ReasonCode::SchemaDiffers, why, fix)),
        DatabaseCondition::Usable | DatabaseCondition::ReadOnly => None,
    })
}

pub(super) fn storage_full(observed: &QueueObservations) -> Verdict {
    let processes = consumers(observed)?;
    let mut waits = processes.iter().flat_map(|process| &process.state.not_consuming);
    let is_full = waits.any(|waiting| waiting.error == STORAGE_FULL);
    let finding = Finding::new(
        ReasonCode::StorageFull,
        STORAGE_FULL,
        "remove the cause of the failures (allocation dead-letters groups), then retry or discard them; or raise \
         limits.failed_messages",
    );
    Ok(is_full.then_some(finding))
}

pub(super) fn mail_away(observed: &QueueObservations) -> Verdict {
    if observed.queue != QueueName::Notifications {
        return Ok(None);
    }
    consumers(observed)?;
    let fix = "repair the mail server or smtp.url. Notifications wait, no attempt is counted";
    let evidence = reported(observed, "mail server", |_| true);
    Ok(evidence.map(|evidence| Finding::new(ReasonCode::MailAway, evidence, fix)))
}

/// What the processes that the queue needs report about a server that they cannot use.
fn reported(observed: &QueueObservations, server: &str, counts: impl Fn(&str) -> bool) -> Option<String> {
    let processes = consumers(observed).ok()?;
    let reports = processes.iter().flat_map(|process| {
        let of_server = process.state.unavailable.iter().filter(|waiting| waiting.server == server);
        let relevant = of_server.filter(|waiting| counts(&waiting.error));
        relevant.map(|UnavailableServer { seconds, error, .. }| {
            format!("{} waits for it since {seconds} s: {error}", process.name)
        })
    });
    let reports: Vec<_> = reports.collect();
    (!reports.is_empty()).then(|| reports.join("; "))
}
