//! One term per concept: former names of types, functions and settings, and figures of speech, are forbidden.

use std::fs;

use super::source::{all_files, project, project_path};

/// The files that are checked. Only this file may contain the words.
const READ: [&str; 8] = ["src", "tests", "benches", "examples", "config", "docs", "ops", "README.md"];
const THIS_FILE: &str = "tests/it/architecture/words.rs";

/// Former names, case-sensitive.
const NAMES: &[&str] = &[
    "Acted",
    "AsWanted",
    "BadRow",
    "CorrectionError",
    "DeadLetterDetail",
    "EventPublisher",
    "FailedAttempt",
    "FailureKey",
    "Fingerprint",
    "Footprint",
    "InvalidSettings",
    "LastingChannel",
    "Ledger",
    "MemoryExchange",
    "MemoryNotices",
    "NotNow",
    "NotTold",
    "NotifyOutOfStock",
    "OtherBatch",
    "OtherBody",
    "OtherQuantity",
    "PgLead",
    "PgLedger",
    "PlantedBug",
    "PublishingChannel",
    "Pulse",
    "PutAside",
    "PutOff",
    "RabbitSender",
    "RabbitSettler",
    "Receipt",
    "RefusedEvents",
    "ReturnedId",
    "Settler",
    "Sight",
    "ViewRow",
    "ViewState",
    "Vitals",
    "WrongUse",
    "BROKE_SOON",
    "DEADLY_STARTS",
    "LOOK_AT_LEAST_EVERY",
    "MAILS_IN_HAND",
    "READ_ON",
    "SUSPICIOUS_STARTS",
    "TRIED_ONE_BY_ONE",
    "allocate_waiting",
    "awaits_a_server",
    "away_ms",
    "broken_off",
    "count_starts",
    "finished_up_to",
    "first_sights",
    "lane_of",
    "last_place()",
    "learn_batch",
    "learn_line",
    "learn_newest_lines",
    "learn_waiting_lines",
    "leave_unhandled",
    "means_this_machine",
    "misses_waiting_lines",
    "offer_stock",
    "one_of_each_in_trouble",
    "put_right",
    "reach_newest_lines",
    "reach_waiting_lines",
    "refused_events",
    "schema_fits",
    "servers_are_back",
    "settled_lines",
    "tell_people",
    "topology_stands",
    "until_none_is_left",
    "while_alive",
    "with_deep_stacks",
    "write_true",
    "database.patience",
    "limits.body ",
    "limits.headers",
    "relay.window",
    "worker.grace",
    "worker.hold",
    "worker.lanes",
];

/// Figures of speech and dated words, case-insensitive.
const PHRASES: &[&str] = &[
    "anew",
    "anybody",
    "are away",
    "astray",
    "at night",
    "be away",
    "culprit",
    "everybody",
    "for ever",
    "goes away",
    "grave",
    "hand over",
    "heard of",
    "in hand",
    "in the way",
    "in truth",
    "innocent",
    "is away",
    "lent",
    "mend",
    "mended",
    "nobody",
    "put aside",
    "put right",
    "puts aside",
    "puts right",
    "said no",
    "says no",
    "server away",
    "set aside",
    "sit in",
    "sits in",
    "somebody",
    "stands by",
    "the world",
    "told",
    "was away",
    "went away",
    "were away",
    "whoever",
    "witness",
];

/// Every forbidden word of a text, with its line.
fn found_in(path: &str, text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let names = NAMES.iter().flat_map(|name| lines_with(text, name));
    let phrases = PHRASES.iter().flat_map(|phrase| lines_with(&lower, phrase));
    names.chain(phrases).map(|(line, word)| format!("{path}:{line} {word:?}")).collect()
}

/// The numbers of the lines that have the word.
fn lines_with<'a>(text: &'a str, word: &'static str) -> impl Iterator<Item = (usize, &'static str)> + 'a {
    let lines = if text.contains(word) { text } else { "" }.lines().enumerate();
    lines.filter(move |(_, line)| contains_word(line, word)).map(move |(index, _)| (index + 1, word))
}

/// Whether a line has the text as whole words.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let ends_in_word = is_part(word.chars().next_back());
        !(is_part(before) || is_part(after) && ends_in_word)
    })
}

#[test]
fn no_former_name_and_no_figure_of_speech_is_used() {
    let mut found = Vec::new();
    for file in READ.iter().flat_map(|root| all_files(&project().join(root))) {
        let path = project_path(&file);
        if path != THIS_FILE {
            found.extend(found_in(&path, &String::from_utf8_lossy(&fs::read(&file).unwrap())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_forbidden_word_is_found() {
    let found = |line: &str| found_in("x", line).len();
    assert_eq!(found("//! Whoever writes anew is told by nobody."), 4);
    assert_eq!(found("use crate::ports::{Ledger, store::ViewRow};"), 2);
    assert_eq!(found("database.patience = 1"), 1);
    assert_eq!(found("the broker is away"), 1);
    assert_eq!(found("// put\n// aside"), 0);
    for line in ["retold renewal Ledgers a_ledger", "limits.body_bytes = 1", "right away", "FailedMessages"] {
        assert_eq!(found(line), 0, "{line}");
    }
}
