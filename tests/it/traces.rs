//! Traces: the spans that a collector receives, and what happens without one.

mod exporter;
mod failures;
mod flow;
mod sampling;

use lapin::types::{AMQPValue, FieldTable};

use crate::harness::{Command, Event, ExportedSpan, TestSystem, TraceCollector, properties};

/// The trace and the span of a sender.
const SENDER: (u128, u64) = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);

/// A sender's header.
fn traceparent((trace, span): (u128, u64), is_sampled: bool) -> String {
    format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(is_sampled))
}

/// Sends a command with headers.
async fn send_with(system: &TestSystem, command: &Command, headers: &[(&str, &str)]) {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    let properties = properties(command.kind, &command.message_id).with_headers(table);
    system.sender.publish_raw(command.kind, properties, command.body.to_string().as_bytes()).await;
}

/// The settings of a process that exports to a collector.
fn settings<'a>(collector: &'a TraceCollector, ratio: &'a str) -> [(&'a str, &'a str); 2] {
    [("ALLOCATION__TRACES__ENDPOINT", &collector.endpoint), ("ALLOCATION__TRACES__RATIO", ratio)]
}

/// The trace and the parent that an event names, if it names any.
fn context_of(event: &Event) -> Option<(u128, u64)> {
    let value = event.header("traceparent")?;
    let fields: Vec<_> = value.split('-').collect();
    let number = |text: &str| u128::from_str_radix(text, 16).expect("an id is hexadecimal");
    Some((number(fields[1]), u64::try_from(number(fields[2])).expect("a span id has 16 digits")))
}

fn context(span: &ExportedSpan) -> (u128, u64) {
    (span.trace_id, span.span_id)
}

fn the_only<T>(found: Vec<T>) -> T {
    let [one] = <[T; 1]>::try_from(found).unwrap_or_else(|found| panic!("{} instead of one", found.len()));
    one
}
