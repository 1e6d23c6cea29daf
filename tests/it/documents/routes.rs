//! The types of messages are the same in the table of routes, on the page of messages and on the command line.

use std::collections::BTreeSet;

use allocation::{cli::Cli, ports::routing::ROUTES};
use clap::Parser as _;

use super::page::Page;

/// Types and queues of the commands.
fn commands() -> BTreeSet<(String, String)> {
    let commands = ROUTES.iter().filter(|route| route.exchange == "commands");
    commands.map(|route| (route.kind.to_owned(), format!("<ns>.{}", route.queue.as_str()))).collect()
}

#[test]
fn the_page_has_every_command_with_its_queue() {
    let page = Page::open("docs/messages.md");
    let mut listed = BTreeSet::new();
    for line in page.prose() {
        let cells: Vec<_> = line.text.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if let [_, kind, queue, _, _, _] = cells[..]
            && queue.starts_with("<ns>.")
        {
            listed.insert((kind.to_owned(), queue.to_owned()));
        }
    }
    assert_eq!(listed, commands());
}

#[test]
fn the_command_line_sends_every_command() {
    let help = Cli::try_parse_from(["allocation", "send", "--help"]).unwrap_err().to_string();
    let words: BTreeSet<_> = help.split_whitespace().collect();
    for (kind, _) in commands() {
        assert!(words.contains(kind.as_str()), "{kind} is not in\n{help}");
    }
}
