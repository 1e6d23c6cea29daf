//! Compares the sets of attempted, confirmed, handled, published and dead-lettered messages.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use sqlx::PgPool;

use crate::{
    check_report::CheckReport,
    command::{Command, Effect},
    journal,
    observer::Event,
    test_system::{ExpectedDeadLetter, TestSystem},
};

/// How many lines with a difference between events and tables are listed.
const MAX_SHOWN: usize = 5;

/// A row of `failed_messages` with status `dead`.
#[derive(Clone, Debug, sqlx::FromRow)]
struct StoredDeadLetter {
    message_id: Option<String>,
    reason: Option<String>,
    body: Vec<u8>,
    /// Original properties, attempts and times are stored.
    complete: bool,
}

/// Checks a system in which no work is left.
pub(crate) async fn check(system: &TestSystem<'_>) -> anyhow::Result<CheckReport> {
    let mut report = check_state(system).await?;
    let (attempted, confirmed) = (system.command_source.attempted(), system.command_source.confirmed());
    let dead_letters = stored_dead_letters(&system.pool).await?;
    let events = system.observer.events();
    let effects = journal::effects(&system.pool).await?;
    check_commands(&attempted, &confirmed, &effects, &dead_letters, &mut report);
    check_causes(&attempted, &effects, &events, &mut report);
    check_dead_letters(&system.expected_dead.borrow(), &dead_letters, &mut report);
    report.elapsed = system.started_at.elapsed();
    Ok(report)
}

/// Checks that do not depend on what was sent: events are in order and agree with the tables, the tables are
/// consistent, and no work is left.
pub(crate) async fn check_state(system: &TestSystem<'_>) -> anyhow::Result<CheckReport> {
    let mut report = CheckReport {
        scenario: system.name.to_owned(),
        evidence: system.evidence.borrow().clone(),
        violations: system.violations.borrow().clone(),
        ..CheckReport::default()
    };
    let events = system.observer.events();
    check_event_order(
        &events,
        &recorded_sequences(&system.pool).await?,
        system.events_rejected.get(),
        &mut report,
    );
    check_event_contents(&events, &allocated_lines(&system.pool).await?, &mut report);
    report.dead = stored_dead_letters(&system.pool).await?.len();
    // Violations so far are permanent, even if the rest cannot be checked.
    for found in [journal::violated_rules(&system.pool).await, remaining_work(system).await] {
        report.violations.extend(found.unwrap_or_else(|error| vec![format!("not checked: {error:#}")]));
    }
    report.elapsed = system.started_at.elapsed();
    Ok(report)
}

async fn stored_dead_letters(pool: &PgPool) -> anyhow::Result<Vec<StoredDeadLetter>> {
    Ok(sqlx::query_as(
        "select message_id, reason, body,
                reason is not null and octet_length(original) > 0 and first_failed_at <= last_failed_at and attempts > 0
                and exists (select from failed_attempts a where a.failed_message_id = f.id) as complete
         from failed_messages f where status = 'dead' order by id",
    )
    .fetch_all(pool)
    .await?)
}

/// I1, I2, I3: a confirmed command takes effect once or is dead-lettered, never both.
fn check_commands(
    attempted: &[Command],
    confirmed: &HashSet<String>,
    effects: &HashMap<Effect, usize>,
    dead_letters: &[StoredDeadLetter],
    report: &mut CheckReport,
) {
    // The same id with a different body is another message; its dead letter has the reason `message_id_conflict`.
    let same_body = dead_letters
        .iter()
        .filter(|dead_letter| dead_letter.reason.as_deref() != Some("message_id_conflict"));
    let dead: HashSet<_> = same_body.filter_map(|dead_letter| dead_letter.message_id.as_deref()).collect();
    for command in attempted {
        let (id, times) = (&command.message_id, effects.get(&command.effect).copied().unwrap_or(0));
        match (times, dead.contains(id.as_str())) {
            (0, false) if confirmed.contains(id) => report.lost.push(id.clone()),
            (0, _) | (1, false) => {}
            (_, true) => report.violations.push(format!("{id} was handled and is dead-lettered")),
            (_, false) => report.repeated.push(format!("{id} ×{times}")),
        }
    }
}

/// I2, I4: every effect and every event belongs to a command; each handled request for a line has exactly one event.
fn check_causes(
    attempted: &[Command],
    effects: &HashMap<Effect, usize>,
    events: &[Event],
    report: &mut CheckReport,
) {
    let requested: HashSet<_> = attempted.iter().map(|command| &command.effect).collect();
    let unexpected = effects.keys().filter(|effect| !requested.contains(effect));
    report.violations.extend(unexpected.map(|effect| format!("no command for {effect:?}")));
    let mut event_ids: HashMap<(&str, &str), BTreeSet<&str>> = HashMap::new();
    let ids: HashSet<_> = attempted.iter().map(|command| command.message_id.as_str()).collect();
    for event in events {
        if !ids.contains(event.causation_id.as_str()) {
            report.violations.push(format!("event {} has no command: {}", event.id, event.causation_id));
        }
        if matches!(event.kind.as_str(), "allocated" | "out_of_stock") {
            let line = (event.causation_id.as_str(), event.field("orderid"));
            event_ids.entry(line).or_default().insert(event.id.as_str());
        }
    }
    for command in attempted {
        let Some(orderid) = command.requested_order().filter(|_| effects.contains_key(&command.effect))
        else {
            continue;
        };
        match event_ids.get(&(command.message_id.as_str(), orderid)).map_or(0, BTreeSet::len) {
            0 => report.lost.push(format!("the event of {}", command.message_id)),
            1 => {}
            more => report.repeated.push(format!("{} has {more} events", command.message_id)),
        }
    }
}

/// I6: exactly the expected messages are dead letters, with the expected reason and with every stored field.
fn check_dead_letters(
    expected: &[ExpectedDeadLetter],
    dead_letters: &[StoredDeadLetter],
    report: &mut CheckReport,
) {
    let mut unexpected: Vec<_> = dead_letters.iter().collect();
    for expected_dead_letter in expected {
        let matches = |dead_letter: &&StoredDeadLetter| {
            dead_letter.message_id == expected_dead_letter.message_id
                && dead_letter.reason.as_deref() == Some(expected_dead_letter.reason)
                && dead_letter.body == expected_dead_letter.body
        };
        match unexpected.iter().position(matches) {
            Some(index) => {
                unexpected.swap_remove(index);
            }
            None => {
                report.violations.push(format!(
                    "{:?} is not dead-lettered as {}",
                    expected_dead_letter.message_id, expected_dead_letter.reason
                ));
            }
        }
    }
    for StoredDeadLetter { message_id, reason, .. } in unexpected {
        report
            .violations
            .push(format!("{message_id:?} is dead-lettered: {}", reason.as_deref().unwrap_or("no reason")));
    }
    let incomplete = dead_letters.iter().filter(|dead_letter| !dead_letter.complete);
    report.violations.extend(
        incomplete.map(|dead_letter| format!("the dead letter of {:?} lacks fields", dead_letter.message_id)),
    );
}

async fn recorded_sequences(pool: &PgPool) -> anyhow::Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select sku, event_sequence from products where event_sequence > 0")
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().collect())
}

/// I4, I5: the first arrivals of each SKU are numbered 1, 2, 3 … up to the recorded sequence, and a repeated event
/// has the same content. Where a queue rejected an event, an event that arrived before its predecessor does not
/// count.
fn check_event_order(
    events: &[Event],
    recorded: &BTreeMap<String, i64>,
    events_rejected: bool,
    report: &mut CheckReport,
) {
    let mut first: HashMap<&str, &Event> = HashMap::new();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for event in events {
        if let Some(previous) = first.get(event.id.as_str()) {
            report.duplicates += usize::from(!event.redelivered);
            if previous.body != event.body || previous.sequence != event.sequence {
                report.violations.push(format!("a repeated event {} has different content", event.id));
            }
            if !events_rejected {
                continue;
            }
        }
        first.insert(event.id.as_str(), event);
        let last = last.entry(event.sku.as_str()).or_default();
        if event.sequence == *last + 1 {
            *last += 1;
        } else if !events_rejected {
            report.out_of_order.push(format!("{} {} after {last}", event.sku, event.sequence));
            *last = (*last).max(event.sequence);
        }
    }
    check_event_counts(&last, recorded, report);
}

/// The number of arrived events equals the number of recorded events, for each SKU.
fn check_event_counts(
    last: &BTreeMap<&str, i64>,
    recorded: &BTreeMap<String, i64>,
    report: &mut CheckReport,
) {
    let skus: BTreeSet<&str> = recorded.keys().map(String::as_str).chain(last.keys().copied()).collect();
    for sku in skus {
        let arrived = last.get(sku).copied().unwrap_or(0);
        let sequence = recorded.get(sku).copied().unwrap_or(0);
        let reported = format!("events of {sku}: {arrived} of {sequence} arrived");
        match arrived.cmp(&sequence) {
            Ordering::Less => report.lost.push(reported),
            Ordering::Equal => {}
            Ordering::Greater => report.violations.push(reported),
        }
    }
}

/// The allocated lines: order, SKU, batch.
async fn allocated_lines(pool: &PgPool) -> anyhow::Result<Vec<(String, String, String)>> {
    Ok(sqlx::query_as("select orderid, sku, batchref from order_lines where batchref is not null")
        .fetch_all(pool)
        .await?)
}

/// I4: the events, applied in order, give the same allocations as the tables.
fn check_event_contents(events: &[Event], allocated: &[(String, String, String)], report: &mut CheckReport) {
    let mut reported: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let by_sequence: BTreeMap<_, _> =
        events.iter().map(|event| ((event.sku.as_str(), event.sequence), event)).collect();
    for event in by_sequence.into_values() {
        let line = (event.field("orderid"), event.field("sku"));
        // Every other event about a line means that it has no batch.
        if event.kind == "allocated" {
            reported.insert(line, event.field("batchref"));
        } else {
            reported.remove(&line);
        }
    }
    let mut stored: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (orderid, sku, batch) in allocated {
        stored.insert((orderid.as_str(), sku.as_str()), batch.as_str());
    }
    let lines: BTreeSet<_> = reported.keys().chain(stored.keys()).collect();
    let different = lines.into_iter().filter(|line| reported.get(*line) != stored.get(*line));
    report.violations.extend(different.take(MAX_SHOWN).map(|line| {
        let (events, table) = (reported.get(line), stored.get(line));
        format!("line {line:?}: events say {events:?}, the table says {table:?}")
    }));
}

/// I7: no work is left.
async fn remaining_work(system: &TestSystem<'_>) -> anyhow::Result<Vec<String>> {
    let mut remaining = Vec::new();
    for queue in [
        "orders",
        "stock",
        "orders.dlq",
        "stock.dlq",
        "notifications.dlq",
        "orders.unreadable",
        "stock.unreadable",
        "notifications.unreadable",
    ] {
        let ready = system.broker_client.ready_messages(&system.qualified(queue)).await?;
        if ready > 0 {
            remaining.push(format!("{queue} has {ready} messages"));
        }
    }
    for (description, query) in [
        ("events in the outbox", "select count(*) from outbox"),
        ("scheduled retries", "select count(*) from failed_messages where status = 'retrying'"),
        ("unfinished starts", "select count(*) from message_starts"),
    ] {
        let count = system.count(query).await?;
        if count > 0 {
            remaining.push(format!("{count} {description}"));
        }
    }
    Ok(remaining)
}
