//! The session of the runbook is executed.

use crate::harness::{CliOutput, DRAINS_WITHIN, TestSystem, properties, wait_for, wait_until};

use super::{
    commands::arguments,
    page::{Block, Page},
    part::marked,
};

const PAGE: &str = "docs/runbook.md";
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RETRYING: &str = "select count(*) from failed_messages where status = 'retrying'";

/// Creates the dead letters of the session.
async fn fail(system: &TestSystem) {
    let lines = [("9001", 2), ("9002", 2), ("9003", 2), ("9004", -1)];
    for (number, (order, qty)) in lines.into_iter().enumerate() {
        let body = format!(r#"{{"orderid": "WEB-{order}", "sku": "MOON-LAMP", "qty": {qty}}}"#);
        let properties = properties("allocate", &format!("web-{order}"));
        system.sender.publish_raw("allocate", properties, body.as_bytes()).await;
        let dead = i64::try_from(number).unwrap() + 1;
        wait_for("the command is dead", DRAINS_WITHIN, &dead, async || system.count(DEAD).await).await;
    }
}

/// A command of the session, and the lines below it.
struct Step {
    command: String,
    output: Vec<String>,
}

fn steps(blocks: &[Block]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in blocks.iter().filter(|block| block.info == "console") {
        for line in block.text.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
                None => {
                    steps.last_mut().expect("a session begins with a command").output.push(line.to_owned());
                }
            }
        }
    }
    steps
}

/// Runs a command of the page, with the files of the page.
async fn run(system: &TestSystem, blocks: &[Block], command: &str) -> CliOutput {
    let arguments = arguments(command).expect("it calls the program");
    let with_file = |argument: &String| {
        let block = blocks.iter().find(|block| block.info.ends_with(&format!(" {argument}")));
        block.map_or_else(
            || argument.clone(),
            |block| system.file(argument, block.text.trim_end().as_bytes()).display().to_string(),
        )
    };
    let arguments: Vec<_> = arguments[1..].iter().map(with_file).collect();
    system.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// A line without the parts that differ between runs: namespace, times, widths of columns.
fn normalized(line: &str, namespace: &str) -> String {
    let varies = |word: &&str| {
        let digits = word.chars().all(|c| c.is_ascii_digit() || "-:.TZ,".contains(c));
        digits && word.contains([':', '.', '-'])
    };
    let line = line.replace(namespace, "allocation");
    line.split_whitespace().map(|word| if varies(&word) { "#" } else { word }).collect::<Vec<_>>().join(" ")
}

/// The page may omit lines of the output. Its lines must be in the output, in any order.
#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_the_runbook_prints_what_the_page_says() {
    let system = TestSystem::new("the_session_of_the_runbook_prints_what_the_page_says").await;
    let worker = system.worker_with(&[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]);
    fail(&system).await;
    let blocks = Page::parse(PAGE, &marked(PAGE, "session")).blocks();
    let steps = steps(&blocks);
    assert!(steps.len() > 6, "only {} commands were found", steps.len());
    let mut sent = 0;
    for Step { command, output } in steps {
        let answer = run(&system, &blocks, &command).await;
        sent += i64::from(command.contains(" send "));
        let handled = async || system.handled().await >= sent;
        wait_until("what was sent is handled", DRAINS_WITHIN, handled).await;
        let printed: Vec<_> = answer.text().lines().map(|line| normalized(line, &system.namespace)).collect();
        for line in output {
            let expected = normalized(&line, &system.namespace);
            assert!(printed.contains(&expected), "{command}\ndoes not print\n{line}\nbut\n{}", answer.text());
        }
        assert_eq!(answer.code, 0, "{command}: {}", answer.text());
        wait_for("retries are handled", DRAINS_WITHIN, &0, async || system.count(RETRYING).await).await;
    }
    assert_eq!(system.count(DEAD).await, 0);
    let unpublished = async || system.count("select count(*) from outbox").await;
    wait_for("events are published", DRAINS_WITHIN, &0, unpublished).await;
    system.close_after([worker]).await;
}
