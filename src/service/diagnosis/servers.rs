//! Reasons outside of the program: servers, the queue, the schema, and space.

use crate::ports::{
    diagnosis::{BrokerQueue, DatabaseCondition, QueueObservations},
    processes::{STORAGE_FULL, UnavailableServer},
    queue::QueueName,
};

use super::{
    consumers::{consumers, relays},
    reason::{Finding, ReasonCode, Verdict},
};

/// The broker's reply about what it does not have. Processes report it as an outage of the broker.
const NOT_FOUND: &str = "NOT_FOUND";

pub(super) fn database_away(observed: &QueueObservations) -> Verdict {
    let fix = "repair the database or the network; or, if the error is about a password or a right, the settings of this \
               command. Nothing is lost and no attempt is counted; processing continues by itself";
    let found = |evidence: String| Ok(Some(Finding::new(ReasonCode::DatabaseAway, evidence, fix)));
    match &observed.database {
        Err(error) => return found(error.clone()),
        Ok(DatabaseCondition::ReadOnly) => {
            return found(
                "it accepts no writes: it is a standby, or default_transaction_read_only is on".into(),
            );
        }
        Ok(DatabaseCondition::Unusable(_)) => return Ok(None),
        Ok(DatabaseCondition::Usable) => {}
    }
    // A session of its own succeeded; the queries use the pool, which may lead to another address.
    if let (Err(error), Err(_), Err(_)) = (&observed.locks, &observed.processes, &observed.work) {
        return found(format!("no query succeeds (database.url): {error}"));
    }
    Ok(reported(observed, "database")?.map(|evidence| Finding::new(ReasonCode::DatabaseAway, evidence, fix)))
}

pub(super) fn broker_away(observed: &QueueObservations) -> Verdict {
    let away = "repair the broker or the network. Nothing is lost; processes connect by themselves";
    let found = |evidence: String, fix: &str| Ok(Some(Finding::new(ReasonCode::BrokerAway, evidence, fix)));
    if let Err(error) = &observed.broker {
        return found(error.clone(), away);
    }
    if let Some(error) = reported(observed, "broker")? {
        return match (error.contains(NOT_FOUND), observed.broker_queue()) {
            (true, Ok(BrokerQueue::Missing)) => Ok(None),
            (true, _) => found(error, "an exchange or a queue is missing: allocation topology"),
            (false, _) => found(error, away),
        };
    }
    Ok(None)
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
        "stop what sends the failing messages (allocation dead-letters groups), raise limits.failed_messages and restart, \
         then discard or retry them: ended ones take space until retention.failures is over",
    );
    Ok(is_full.then_some(finding))
}

pub(super) fn mail_away(observed: &QueueObservations) -> Verdict {
    if observed.queue != QueueName::Notifications {
        return Ok(None);
    }
    let fix = "repair the mail server or smtp.url. Notifications wait, no attempt is counted";
    let evidence = reported(observed, "mail server")?;
    Ok(evidence.map(|evidence| Finding::new(ReasonCode::MailAway, evidence, fix)))
}

/// What the processes that the queue needs, and the relays, report about a server that they cannot use.
fn reported(observed: &QueueObservations, server: &str) -> Result<Option<String>, String> {
    let processes = consumers(observed)?.into_iter().chain(relays(observed)?);
    let reports = processes.flat_map(|process| {
        let of_server = process.state.unavailable.iter().filter(|waiting| waiting.server == server);
        of_server.map(|UnavailableServer { seconds, error, .. }| {
            format!("{} waits for it since {seconds} s: {error}", process.name)
        })
    });
    let mut reports: Vec<_> = reports.collect();
    reports.dedup();
    Ok((!reports.is_empty()).then(|| reports.join("; ")))
}
