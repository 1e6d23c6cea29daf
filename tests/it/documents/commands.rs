//! The parser of the command line accepts the commands of the documents, and commands that need no server are run.

use std::{fs, process::Command};

use allocation::cli::Cli;
use clap::{Parser as _, error::ErrorKind};

use super::{
    page::{Line, Page, pages},
    part::{expect_part, marked},
};

/// Words that stand for a value in a command that is named, not run.
const PLACEHOLDERS: [(&str, &str); 3] = [("ID", "1"), ("N", "1"), ("DURATION", "2h")];

/// The words of a shell command, without comment, pipe and redirection; nothing if it does not call the program.
pub(super) fn arguments(command: &str) -> Option<Vec<String>> {
    let words = words(command);
    let program = |word: &String| word == "allocation" || word.ends_with("/allocation");
    let begin = words.iter().position(program)?;
    let end =
        words[begin..].iter().position(|word| matches!(word.as_str(), "|" | ">" | "<" | ";" | "#" | "&&"));
    Some(words[begin..end.map_or(words.len(), |end| begin + end)].to_vec())
}

/// Splits like a shell: single and double quotes keep blanks.
pub(super) fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in command.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => (quote, begun) = (Some(c), true),
            None if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            None => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[test]
fn words_are_split_like_a_shell_does() {
    let command = "echo '{\"a\": 1}' | target/allocation x --why \"b c\" # d";
    assert_eq!(arguments(command).unwrap(), ["target/allocation", "x", "--why", "b c"]);
    assert_eq!(arguments("make run"), None);
}

/// Parses a command; the error if the parser does not accept it.
pub(super) fn parse(arguments: &[String]) -> Result<(), clap::Error> {
    let value = |word: &String| {
        let value = PLACEHOLDERS.iter().find(|(name, _)| name == word);
        value.map_or_else(|| word.clone(), |(_, value)| (*value).to_owned())
    };
    let program = std::iter::once("allocation".to_owned());
    match Cli::try_parse_from(program.chain(arguments[1..].iter().map(value))) {
        Err(error) if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// A line of a block that is a command.
fn commands(page: &Page) -> Vec<(usize, String)> {
    let in_block = |line: &&Line| {
        matches!(line.block.as_deref(), Some("sh" | "console")) && !line.text.starts_with("```")
    };
    let lines = page.lines.iter().filter(in_block);
    lines
        .filter_map(|line| match line.block.as_deref() {
            Some("console") => Some((line.number, line.text.strip_prefix("$ ")?.to_owned())),
            _ => Some((line.number, line.text.clone())),
        })
        .collect()
}

#[test]
fn commands_in_blocks_are_accepted() {
    let mut parsed = 0;
    for page in pages() {
        for (line, command) in commands(&page) {
            let Some(arguments) = arguments(&command) else { continue };
            if let Err(error) = parse(&arguments) {
                panic!("{}: {command}\n{error}", page.at(line));
            }
            parsed += 1;
        }
    }
    assert!(parsed > 15, "only {parsed} commands were found");
}

/// In prose a command may be named without its arguments.
#[test]
fn commands_in_prose_exist() {
    let mut parsed = 0;
    for page in pages() {
        for (line, span) in page.code_spans().filter(|(_, span)| span.starts_with("allocation ")) {
            let Err(error) = parse(&words(span)) else {
                parsed += 1;
                continue;
            };
            let named_only = matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            );
            assert!(named_only, "{}: {span}\n{error}", page.at(line));
        }
    }
    assert!(parsed > 10, "only {parsed} commands were found");
}

fn program(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_allocation"));
    let output = program.args(arguments).env_remove("DATABASE_URL").env_remove("AMQP_URL").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The block of a page that begins with a command, with its output.
fn session(page: &str, command: &str) -> String {
    let prompt = format!("$ {command}\n");
    let blocks = Page::open(page).blocks();
    let block = blocks.iter().find(|block| block.text.starts_with(&prompt));
    block.unwrap_or_else(|| panic!("{page} has no {prompt}")).text.clone()
}

#[test]
fn the_demo_prints_what_the_page_says() {
    let found = session("docs/operations.md", "allocation demo");
    let duration = |line: &&str| line.contains(" ms");
    let printed = program(&["demo"]);
    let milliseconds = found.lines().find(duration).expect("the demo prints its duration");
    let printed: Vec<_> =
        printed.lines().map(|line| if duration(&line) { milliseconds } else { line }).collect();
    expect_part("docs/operations.md", &found, &format!("$ allocation demo\n{}\n", printed.join("\n")));
}

#[test]
fn the_files_of_the_page_give_its_allocations() {
    const PAGE: &str = "docs/operations.md";
    let folder = tempfile::tempdir().unwrap();
    let blocks = Page::open(PAGE).blocks();
    let file = |name: &str| {
        let block = blocks.iter().find(|block| block.info == format!("csv {name}"));
        block.unwrap_or_else(|| panic!("{PAGE} has no block csv {name}")).text.clone()
    };
    for name in ["batches.csv", "orders.csv"] {
        fs::write(folder.path().join(name), file(name)).unwrap();
    }
    let printed = program(&["csv", folder.path().to_str().unwrap()]);
    expect_part(PAGE, &session(PAGE, "allocation csv DIR"), &format!("$ allocation csv DIR\n{printed}"));
    let written = fs::read_to_string(folder.path().join("allocations.csv")).unwrap();
    expect_part(PAGE, &file("allocations.csv"), &written.replace("\r\n", "\n"));
}

/// The settings that the program prints are those of the table.
#[test]
fn the_table_has_the_settings_that_the_program_prints() {
    let printed = program(&["config"]);
    let printed: Vec<_> = printed.lines().map(|line| line.split(" = ").next().unwrap_or_default()).collect();
    let table = marked("docs/operations.md", "settings");
    let mut listed: Vec<_> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    listed.sort_unstable();
    assert_eq!(printed, listed);
}
