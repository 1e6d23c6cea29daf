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
pub(super) const CYCLES: &[&str] = &["src/entrypoints/api/batcher.rs", "src/entrypoints/api/health.rs"];
/// Files that are too long, or have a function that is.
pub(super) const SIZE: &[&str] = &[];
/// `mod.rs` files with items.
pub(super) const ITEMS: &[&str] = &[];
/// Files or folders with forbidden words.
pub(super) const WORDS: &[&str] = &[
    "src/crash_points.rs",
    "src/service/backoff.rs",
    "src/service/handlers.rs",
    "tests/it/service/attempts.rs",
    "tests/it/service/hand_back.rs",
    "tests/it/service/starts.rs",
    "tests/it/service/worker.rs",
];

/// The findings that are not about a pending file. A finding begins with the file's path.
pub(super) fn without(pending: &[&str], found: Vec<String>) -> Vec<String> {
    found.into_iter().filter(|found| !pending.iter().any(|path| found.starts_with(path))).collect()
}
