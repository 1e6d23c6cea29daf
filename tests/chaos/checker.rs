//! What was attempted, confirmed, done, published and buried, compared as sets.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

use sqlx::PgPool;

use crate::{
    command::{Command, Effect},
    journal,
    observer::Event,
    verdict::Verdict,
    world::{ExpectedDeath, World},
};

/// Of lines of which events and tables say different things, so many are named.
const SHOWN: usize = 5;

/// A grave in the ledger.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Grave {
    message_id: Option<String>,
    reason: Option<String>,
    body: Vec<u8>,
    /// Original properties, attempts and times are all there.
    complete: bool,
}

/// Judges a world in which nothing moves any more.
pub(crate) async fn judge(world: &World<'_>) -> anyhow::Result<Verdict> {
    let mut verdict = judge_state(world).await?;
    let (attempted, confirmed) = (world.upstream.attempted(), world.upstream.confirmed());
    let graves = graves(&world.pool).await?;
    let events = world.observer.events();
    let effects = journal::effects(&world.pool).await?;
    commands(&attempted, &confirmed, &effects, &graves, &mut verdict);
    causes(&attempted, &effects, &events, &mut verdict);
    buried(&world.expected_dead.borrow(), &graves, &mut verdict);
    verdict.took = world.begun.elapsed();
    Ok(verdict)
}

/// What holds whatever was sent: events are in order and agree with the tables, the tables agree with each other, and
/// nothing waits anywhere.
pub(crate) async fn judge_state(world: &World<'_>) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict {
        scenario: world.name.to_owned(),
        hits: world.hits.borrow().clone(),
        complaints: world.complaints.borrow().clone(),
        ..Verdict::default()
    };
    let events = world.observer.events();
    order(&events, &recorded(&world.pool).await?, world.refusals.get(), &mut verdict);
    contents(&events, &placed(&world.pool).await?, &mut verdict);
    verdict.dead = graves(&world.pool).await?.len();
    // What is wrong so far stays wrong, even if the rest cannot be looked at.
    for found in [journal::broken_rules(&world.pool).await, left_over(world).await] {
        verdict.complaints.extend(found.unwrap_or_else(|error| vec![format!("not judged: {error:#}")]));
    }
    verdict.took = world.begun.elapsed();
    Ok(verdict)
}

async fn graves(pool: &PgPool) -> anyhow::Result<Vec<Grave>> {
    Ok(sqlx::query_as(
        "select message_id, reason, body,
                reason is not null and octet_length(original) > 0 and first_failed_at <= last_failed_at and attempts > 0
                and exists (select from failed_attempts a where a.failed_message_id = f.id) as complete
         from failed_messages f where status = 'dead' order by id",
    )
    .fetch_all(pool)
    .await?)
}

/// I1, I2, I3: what was confirmed is done once, or buried, and never both.
fn commands(
    attempted: &[Command],
    confirmed: &HashSet<String>,
    effects: &HashMap<Effect, usize>,
    graves: &[Grave],
    verdict: &mut Verdict,
) {
    // The same id with another body is another message; its grave says so.
    let own = graves.iter().filter(|grave| grave.reason.as_deref() != Some("message_id_conflict"));
    let dead: HashSet<_> = own.filter_map(|grave| grave.message_id.as_deref()).collect();
    for command in attempted {
        let (id, times) = (&command.message_id, effects.get(&command.effect).copied().unwrap_or(0));
        match (times, dead.contains(id.as_str())) {
            (0, false) if confirmed.contains(id) => verdict.lost.push(id.clone()),
            (0, _) | (1, false) => {}
            (_, true) => verdict.complaints.push(format!("{id} is done, and dead all the same")),
            (_, false) => verdict.double.push(format!("{id} ×{times}")),
        }
    }
}

/// I2, I4: no effect and no event without its command; one event tells what became of a line that was asked for.
fn causes(attempted: &[Command], effects: &HashMap<Effect, usize>, events: &[Event], verdict: &mut Verdict) {
    let asked: HashSet<_> = attempted.iter().map(|command| &command.effect).collect();
    let ghosts = effects.keys().filter(|effect| !asked.contains(effect));
    verdict.complaints.extend(ghosts.map(|ghost| format!("nobody asked for {ghost:?}")));
    let mut answers: HashMap<(&str, &str), BTreeSet<&str>> = HashMap::new();
    let ids: HashSet<_> = attempted.iter().map(|command| command.message_id.as_str()).collect();
    for event in events {
        if !ids.contains(event.causation_id.as_str()) {
            verdict
                .complaints
                .push(format!("event {} follows from no command: {}", event.id, event.causation_id));
        }
        if matches!(event.kind.as_str(), "allocated" | "out_of_stock") {
            let line = (event.causation_id.as_str(), event.field("orderid"));
            answers.entry(line).or_default().insert(event.id.as_str());
        }
    }
    for command in attempted {
        let Some(orderid) = command.asks_for_line().filter(|_| effects.contains_key(&command.effect)) else {
            continue;
        };
        match answers.get(&(command.message_id.as_str(), orderid)).map_or(0, BTreeSet::len) {
            0 => verdict.lost.push(format!("the event of {}", command.message_id)),
            1 => {}
            more => verdict.double.push(format!("{} has {more} events", command.message_id)),
        }
    }
}

/// I6: those are dead that should be, for the right reason, with everything they came with; and nobody else is.
fn buried(expected: &[ExpectedDeath], graves: &[Grave], verdict: &mut Verdict) {
    let mut unexplained: Vec<_> = graves.iter().collect();
    for death in expected {
        let is_it = |grave: &&Grave| {
            grave.message_id == death.message_id
                && grave.reason.as_deref() == Some(death.reason)
                && grave.body == death.body
        };
        match unexplained.iter().position(is_it) {
            Some(place) => {
                unexplained.swap_remove(place);
            }
            None => {
                verdict.complaints.push(format!("{:?} is not dead as {}", death.message_id, death.reason));
            }
        }
    }
    for Grave { message_id, reason, .. } in unexplained {
        verdict
            .complaints
            .push(format!("{message_id:?} is dead: {}", reason.as_deref().unwrap_or("no reason")));
    }
    let incomplete = graves.iter().filter(|grave| !grave.complete);
    verdict
        .complaints
        .extend(incomplete.map(|grave| format!("the ledger lacks parts of {:?}", grave.message_id)));
}

async fn recorded(pool: &PgPool) -> anyhow::Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select sku, event_sequence from products where event_sequence > 0")
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().collect())
}

/// I4, I5: of each SKU the first arrivals are numbered 1, 2, 3 … up to what is recorded, and a repeat says what the
/// first said. Where a queue refused an event, what came before its predecessor does not count as an arrival.
fn order(events: &[Event], recorded: &BTreeMap<String, i64>, refusals: bool, verdict: &mut Verdict) {
    let mut first: HashMap<&str, &Event> = HashMap::new();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for event in events {
        if let Some(known) = first.get(event.id.as_str()) {
            verdict.duplicates += usize::from(!event.redelivered);
            if known.body != event.body || known.sequence != event.sequence {
                verdict.complaints.push(format!("a repeat of event {} says something else", event.id));
            }
            if !refusals {
                continue;
            }
        }
        first.insert(event.id.as_str(), event);
        let last = last.entry(event.sku.as_str()).or_default();
        if event.sequence == *last + 1 {
            *last += 1;
        } else if !refusals {
            verdict.out_of_order.push(format!("{} {} after {last}", event.sku, event.sequence));
            *last = (*last).max(event.sequence);
        }
    }
    arrivals(&last, recorded, verdict);
}

/// As many events of each SKU have arrived as are recorded: no fewer, and none of a SKU that recorded none.
fn arrivals(last: &BTreeMap<&str, i64>, recorded: &BTreeMap<String, i64>, verdict: &mut Verdict) {
    let skus: BTreeSet<&str> = recorded.keys().map(String::as_str).chain(last.keys().copied()).collect();
    for sku in skus {
        let arrived = last.get(sku).copied().unwrap_or(0);
        let sequence = recorded.get(sku).copied().unwrap_or(0);
        let told = format!("events of {sku}: {arrived} of {sequence} arrived");
        match arrived.cmp(&sequence) {
            Ordering::Less => verdict.lost.push(told),
            Ordering::Equal => {}
            Ordering::Greater => verdict.complaints.push(told),
        }
    }
}

/// The lines that sit in a batch: order, SKU, batch.
async fn placed(pool: &PgPool) -> anyhow::Result<Vec<(String, String, String)>> {
    Ok(sqlx::query_as("select orderid, sku, batchref from order_lines where batchref is not null")
        .fetch_all(pool)
        .await?)
}

/// I4: what events say, one after the other, is what the tables say: which line sits in which batch.
fn contents(events: &[Event], placed: &[(String, String, String)], verdict: &mut Verdict) {
    let mut told: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let in_order: BTreeMap<_, _> =
        events.iter().map(|event| ((event.sku.as_str(), event.sequence), event)).collect();
    for event in in_order.into_values() {
        let line = (event.field("orderid"), event.field("sku"));
        // Whatever else is told of a line, it sits in no batch then: it left, or waits.
        if event.kind == "allocated" {
            told.insert(line, event.field("batchref"));
        } else {
            told.remove(&line);
        }
    }
    let mut there: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (orderid, sku, batch) in placed {
        there.insert((orderid.as_str(), sku.as_str()), batch.as_str());
    }
    let lines: BTreeSet<_> = told.keys().chain(there.keys()).collect();
    let differing = lines.into_iter().filter(|line| told.get(*line) != there.get(*line));
    verdict.complaints.extend(differing.take(SHOWN).map(|line| {
        let (events, table) = (told.get(line), there.get(line));
        format!("events put {line:?} in {events:?}, the table in {table:?}")
    }));
}

/// I7: nothing waits anywhere.
async fn left_over(world: &World<'_>) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for queue in ["orders", "stock", "orders.dlq", "stock.dlq", "notifications.dlq"] {
        let ready = world.link.ready(&world.named(queue)).await?;
        if ready > 0 {
            left.push(format!("{queue} holds {ready}"));
        }
    }
    for (what, question) in [
        ("events in the outbox", "select count(*) from outbox"),
        ("retries on their way", "select count(*) from failed_messages where status = 'retrying'"),
        ("starts without an end", "select count(*) from message_starts"),
    ] {
        let count = world.count(question).await?;
        if count > 0 {
            left.push(format!("{count} {what}"));
        }
    }
    Ok(left)
}
