//! `allocation demo`: runs the example day on queues, a store and an exchange in memory. Nothing is stored.

use std::{collections::BTreeMap, time::Instant};

use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{bootstrap, ports::queue::Message};

use super::{exit::ExitStatus, output};

const DAY: &str = include_str!("../../examples/trading-day.jsonl");

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    body: Box<RawValue>,
}

pub(super) async fn demo(json: bool) -> anyhow::Result<ExitStatus> {
    let day: Vec<Message> = DAY.lines().map(message).collect::<Result<_, _>>()?;
    let messages = day.len();
    let begin = Instant::now();
    let report = bootstrap::play_in_memory(day).await;
    let took = begin.elapsed();
    let mut events: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &report.events {
        *events.entry(event.as_str()).or_default() += 1;
    }
    if json {
        output::json(&json!({
            "messages": messages, "failed": report.failed, "events": events,
            "lines": { "allocated": report.allocated, "backordered": report.backordered },
        }))?;
    } else {
        output::line(&format!("{messages} messages processed in {} ms", took.as_millis()));
        output::line(&format!("{} lines allocated, {} backordered", report.allocated, report.backordered));
        for (name, count) in events {
            output::line(&format!("{count} events {name}"));
        }
        output::line("everything ran in memory; nothing was stored");
    }
    Ok(if report.failed == 0 { ExitStatus::Success } else { ExitStatus::Incomplete })
}

fn message(line: &str) -> serde_json::Result<Message> {
    let Line { kind, message_id, body } = serde_json::from_str(line)?;
    Ok(Message {
        kind,
        message_id: Some(message_id),
        body: body.get().as_bytes().into(),
        ..Message::default()
    })
}
