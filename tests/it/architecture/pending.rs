//! Files that do not follow a rule yet. Each list is to become empty.

/// Files with a forbidden import.
pub(super) const LAYERS: &[&str] = &[];
/// Files that name injected faults.
pub(super) const FAULTS: &[&str] = &[
    "src/adapters/postgres/failed_messages/operator.rs",
    "src/adapters/postgres/store.rs",
    "src/adapters/rabbitmq/confirm_channel.rs",
    "src/adapters/rabbitmq/publisher.rs",
    "src/entrypoints/consumer.rs",
    "src/entrypoints/partition.rs",
    "src/service/archive.rs",
    "src/service/process.rs",
    "src/service/relay/events.rs",
    "src/service/relay/retries.rs",
];
/// Files whose imports close a cycle.
pub(super) const CYCLES: &[&str] = &["src/entrypoints/api/mod.rs", "src/service/message_bus.rs"];
/// Files that are too long, or have a function that is.
pub(super) const SIZE: &[&str] = &[
    "src/entrypoints/consumer.rs",
    "src/service/message_bus.rs",
    "tests/it/book.rs",
    "tests/it/copies.rs",
    "tests/it/corpus.rs",
    "tests/it/mail.rs",
];
/// `mod.rs` files with items.
pub(super) const ITEMS: &[&str] = &["src/entrypoints/api/mod.rs"];
/// Files or folders with forbidden words.
pub(super) const WORDS: &[&str] = &[
    "benches/pipeline/broker.rs",
    "benches/pipeline/lab.rs",
    "benches/pipeline/latency.rs",
    "benches/pipeline/main.rs",
    "benches/pipeline/measurement.rs",
    "benches/pipeline/process.rs",
    "benches/pipeline/report.rs",
    "src/adapters/csv.rs",
    "src/adapters/mail/message.rs",
    "src/adapters/memory/notifier.rs",
    "src/adapters/postgres/schema.rs",
    "src/adapters/postgres/store.rs",
    "src/crash_points.rs",
    "src/domain/command.rs",
    "src/domain/mod.rs",
    "src/entrypoints/api/auth.rs",
    "src/entrypoints/api/batcher.rs",
    "src/entrypoints/api/health.rs",
    "src/entrypoints/api/mod.rs",
    "src/entrypoints/api/responses.rs",
    "src/entrypoints/api/routes.rs",
    "src/entrypoints/consumer.rs",
    "src/entrypoints/mod.rs",
    "src/entrypoints/watchdog.rs",
    "src/ports/admin.rs",
    "src/ports/notifier.rs",
    "src/ports/queue.rs",
    "src/ports/store.rs",
    "src/service/backoff.rs",
    "src/service/crash_loop.rs",
    "src/service/decode.rs",
    "src/service/dispatch.rs",
    "src/service/failure.rs",
    "src/service/handlers.rs",
    "src/service/message_bus.rs",
    "src/service/notifications.rs",
    "src/service/received.rs",
    "src/service/unit_of_work.rs",
    "tests/it/book.rs",
    "tests/it/commands.rs",
    "tests/it/copies.rs",
    "tests/it/corpus.rs",
    "tests/it/crashes.rs",
    "tests/it/csv.rs",
    "tests/it/fuzz.rs",
    "tests/it/harness/broker.rs",
    "tests/it/harness/http.rs",
    "tests/it/harness/process.rs",
    "tests/it/harness/proxy.rs",
    "tests/it/harness/season.rs",
    "tests/it/harness/smtp.rs",
    "tests/it/harness/world.rs",
    "tests/it/http.rs",
    "tests/it/http/access.rs",
    "tests/it/http/limits.rs",
    "tests/it/http/outages.rs",
    "tests/it/http/stops.rs",
    "tests/it/mail.rs",
    "tests/it/plans.rs",
    "tests/it/read_side.rs",
    "tests/it/regressions.rs",
    "tests/it/rules.rs",
    "tests/it/service/attempts.rs",
    "tests/it/service/hand_back.rs",
    "tests/it/service/starts.rs",
    "tests/it/service/worker.rs",
];

/// The findings that are not about a pending file. A finding begins with the file's path.
pub(super) fn without(pending: &[&str], found: Vec<String>) -> Vec<String> {
    found.into_iter().filter(|found| !pending.iter().any(|path| found.starts_with(path))).collect()
}
