//! The layout of the documents: length, line width, languages of blocks, and the list of pages.

use super::page::{Line, Page, pages};

const README_LINES: usize = 200;
const LINE_CHARACTERS: usize = 100;
/// Languages of fenced blocks. `console` is a session, `text` is anything that is not executed.
const LANGUAGES: [&str; 7] = ["sh", "console", "text", "json", "csv", "mermaid", "toml"];

#[test]
fn the_readme_is_short() {
    let lines = Page::open("README.md").lines.len();
    assert!(lines <= README_LINES, "README.md has {lines} lines, the limit is {README_LINES}");
}

#[test]
fn lines_are_wrapped() {
    let mut long = Vec::new();
    for page in pages() {
        let lines = page.lines.iter().filter(|line| !may_be_long(line));
        let lines = lines.filter(|line| line.text.chars().count() > LINE_CHARACTERS);
        long.extend(lines.map(|line| format!("{}: {}", page.at(line.number), line.text)));
    }
    assert!(long.is_empty(), "lines with more than {LINE_CHARACTERS} characters:\n{}", long.join("\n"));
}

/// Tables, links, long names and the output of programs cannot be wrapped.
fn may_be_long(line: &Line) -> bool {
    let output = line.block.as_deref().is_some_and(|info| matches!(info, "console" | "text" | "mermaid"));
    let text = &line.text;
    output || text.starts_with('|') || text.contains("://") || text.contains("](") || !text.contains(' ')
}

#[test]
fn every_block_has_a_known_language() {
    for page in pages() {
        for block in page.blocks() {
            let language = block.info.split(' ').next().unwrap_or_default();
            assert!(LANGUAGES.contains(&language), "{}: {:?}", page.at(block.first_line), block.info);
        }
    }
}

/// A semicolon ends a statement of Mermaid, also in the text of a message.
#[test]
fn diagrams_contain_no_semicolon() {
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.info == "mermaid") {
            assert!(!block.text.contains(';'), "{}: {}", page.at(block.first_line), block.text);
        }
    }
}

#[test]
fn every_page_of_docs_is_in_the_summary() {
    let summary = Page::open("docs/SUMMARY.md");
    let linked: Vec<_> = summary.links().map(|(_, target)| target).collect();
    for page in pages() {
        let Some(name) = page.path.strip_prefix("docs/").filter(|name| *name != "SUMMARY.md") else {
            continue;
        };
        assert!(linked.contains(&name), "{name} is not in docs/SUMMARY.md");
    }
}
