//! Files that do not follow a rule yet. Each list is to become empty.

/// Files with a forbidden import.
pub(super) const LAYERS: &[&str] = &[];
/// Files whose imports close a cycle.
pub(super) const CYCLES: &[&str] = &["src/entrypoints/api/batcher.rs", "src/entrypoints/api/health.rs"];
/// Files that are too long, or have a function that is.
pub(super) const SIZE: &[&str] = &[];
/// `mod.rs` files with items.
pub(super) const ITEMS: &[&str] = &[];
/// Files or folders with forbidden words.
pub(super) const WORDS: &[&str] = &[
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
