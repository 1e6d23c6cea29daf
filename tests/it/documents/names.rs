//! Names in the documents are those of the code: tests, types, log messages.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::ops::rules::alerts;

use super::page::{Page, pages, root};

/// Pages whose code spans are names of tests.
const PAGES_OF_TESTS: [&str; 2] = ["docs/guarantees.md", "docs/test-strength.md"];

struct Source {
    /// The path without extension, in segments.
    segments: Vec<String>,
    text: String,
    tests: BTreeSet<String>,
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let files = folders.iter().flat_map(|folder| rust_files(&root().join(folder)));
    files
        .map(|file| {
            let path = file.strip_prefix(root()).unwrap().with_extension("");
            let segments = path.iter().map(|segment| segment.to_str().unwrap().to_owned()).collect();
            let text = fs::read_to_string(file).unwrap();
            Source { segments, tests: tests(&text), text }
        })
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn named_tests_exist() {
    let sources = sources(&["src", "tests"]);
    let mut missing = Vec::new();
    let mut found = 0;
    for page in PAGES_OF_TESTS.map(Page::open) {
        for (line, name) in page.code_spans().filter(|(_, span)| is_test_name(span)) {
            if sources.iter().any(|source| has_test(source, name)) {
                found += 1;
            } else {
                missing.push(format!("{}: {name}", page.at(line)));
            }
        }
    }
    assert!(missing.is_empty(), "tests that do not exist:\n{}", missing.join("\n"));
    assert!(found > 200, "only {found} names of tests were found");
}

/// `module::a_sentence`, `a_sentence`, `protocol: a_sentence` or `chaos: scenario`.
fn is_test_name(span: &str) -> bool {
    let name = span.rsplit([':', ' ']).next().unwrap_or_default();
    let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_word && (span.contains(": ") || span.contains("::") || name.matches('_').count() > 3)
}

/// A test function in a file whose path has the module names, or a scenario in the list of them.
fn has_test(source: &Source, name: &str) -> bool {
    if let Some(scenario) = name.strip_prefix("chaos: ") {
        let list = source.segments.ends_with(&["scenarios".into(), "mod".into()]);
        let named = [format!("::{scenario},"), format!("\"{scenario}\"")];
        return list && named.iter().any(|name| source.text.contains(name));
    }
    let (target, name) = name.split_once(": ").unwrap_or(("", name));
    let mut modules: Vec<_> = name.split("::").collect();
    let function = modules.pop().unwrap_or_default();
    modules.push(target);
    let in_place = |module: &&str| {
        module.is_empty()
            || source.segments.iter().any(|segment| segment == module)
            || source.text.contains(&format!("mod {module} {{"))
            || source.text.contains(&format!("!({module}"))
    };
    source.tests.contains(function) && modules.iter().all(in_place)
}

/// The functions with a test attribute, and the names in a list from which a macro makes tests.
fn tests(text: &str) -> BTreeSet<String> {
    let (mut tests, mut marked) = (BTreeSet::new(), false);
    for line in text.lines().map(str::trim) {
        marked |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
        let name =
            line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        match (name, line.strip_suffix(',')) {
            (Some(name), _) if std::mem::take(&mut marked) => {
                tests.insert(name.to_owned());
            }
            (None, Some(listed)) => {
                tests.insert(listed.to_owned());
            }
            _ => {}
        }
    }
    tests
}

/// Code spans in CamelCase are types, traits, variants, type names of the standard library, or alerts.
#[test]
fn named_types_exist() {
    let code: String = sources(&["src"]).into_iter().map(|source| source.text).collect();
    let mut known: BTreeSet<_> =
        code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| is_type(word)).collect();
    let alerts = alerts();
    known.extend(alerts.iter().map(|alert| alert.name.as_str()));
    let mut seen = 0;
    for page in pages() {
        for (line, span) in page.code_spans() {
            let name = span.split("::").next().unwrap_or_default();
            if is_type(name) {
                assert!(known.contains(name), "{}: {span} is not in src", page.at(line));
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "only {seen} names of types were found");
}

fn is_type(word: &str) -> bool {
    let mut characters = word.chars();
    characters.next().is_some_and(|first| first.is_ascii_uppercase())
        && word.chars().all(char::is_alphanumeric)
        && characters.any(|c| c.is_ascii_lowercase())
        && !["Authorization", "Host", "Allow", "Makefile", "Dockerfile"].contains(&word)
}

/// The runbook quotes the log: `log:` and a code span. `…` stands for a value.
#[test]
fn quoted_log_messages_are_in_the_source() {
    let code: String = sources(&["src"]).into_iter().map(|source| joined(&source.text)).collect();
    let page = Page::open("docs/runbook.md");
    let mut quotes = 0;
    for line in page.prose().filter(|line| line.text.starts_with('|')) {
        for quote in line.text.split("log: `").skip(1) {
            let message = quote.split('`').next().unwrap_or_default();
            for part in message.split('…').map(str::trim) {
                assert!(code.contains(part), "{}: no log message has {part:?}", page.at(line.number));
            }
            quotes += 1;
        }
    }
    assert!(quotes > 4, "only {quotes} quotes were found");
}

/// String literals that continue on the next line, in one.
fn joined(text: &str) -> String {
    text.split("\\\n").map(str::trim_start).collect()
}
