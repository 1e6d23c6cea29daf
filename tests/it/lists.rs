//! Lists of failed messages page by page, and the filters of the subcommands.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{CliOutput, DRAINS_WITHIN, TestSystem, allocate, wait_for};

const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const ACTIONS: &str = "select count(*) from failed_actions";

fn ids(page: &CliOutput) -> Vec<String> {
    let messages = page.json();
    messages.as_array().unwrap().iter().map(|message| message["id"].to_string()).collect()
}

/// The cursor that a page names on standard error.
fn cursor(page: &CliOutput) -> Option<String> {
    let text = page.text();
    let (_, rest) = text.split_once("--cursor ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// An operator retries each page while the messages of the earlier pages fail again, which makes them the newest.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_each_message_once_while_messages_fail_again() {
    const MESSAGES: usize = 45;
    let system = TestSystem::new("a_list_has_each_message_once_while_messages_fail_again").await;
    system.expect_dead(45);
    let worker = system.worker_with(&[("ALLOCATION__RETRY__MAX_ATTEMPTS", "1")]);
    let lines: Vec<_> = (0..MESSAGES).map(|n| allocate(&format!("o-{n}"), "NO-SUCH-SKU", 1)).collect();
    system.sender.send_all(&lines).await;
    let dead = async || system.count(DEAD).await;
    wait_for("all are dead", DRAINS_WITHIN, &45, dead).await;

    let (mut seen, mut place) = (BTreeMap::new(), None);
    for _ in 0..20 {
        let mut list = vec!["--json", "dead-letters", "list", "--limit", "10"];
        list.extend(place.as_deref().map(|place| ["--cursor", place]).into_iter().flatten());
        let page = system.cli(&list).await.exits(0);
        let ids = ids(&page);
        for id in &ids {
            *seen.entry(id.clone()).or_insert(0) += 1;
        }
        let retry: Vec<_> =
            ["dead-letters", "retry"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        system.cli(&retry).await.exits(0);
        wait_for("they failed again", DRAINS_WITHIN, &45, dead).await;
        place = cursor(&page);
        if place.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_a_place_and_anything_else_is_wrong_use() {
    let system = TestSystem::new("a_cursor_is_a_place_and_anything_else_is_wrong_use").await;
    system.insert_dead_letters(3).await;
    let list = ["--json", "dead-letters", "list", "--limit", "2"];
    let first = system.cli(&list).await.exits(0);
    let place = cursor(&first).unwrap();
    // The place is still known when its message is not.
    sqlx::query("delete from failed_messages where message_id = 'm-2'").execute(&system.pool).await.unwrap();
    let second = system.cli(&[&list[..], &["--cursor", &place]].concat()).await.exits(0);
    assert_eq!(second.json()[0]["message_id"], "m-1");
    assert_eq!(ids(&second).len(), 1);
    assert_eq!(cursor(&second), None);
    for garbled in
        ["", "1", "999999999", "x", "2026-11-25T02:00:00Z", "2026-11-25T02:00:00Z,", "2026-11-25,1"]
    {
        let wrong = system.cli(&[&list[..], &["--cursor", garbled]].concat()).await.exits(2).text();
        assert!(wrong.contains("TIME,ID") || garbled.is_empty(), "{wrong}");
    }
    system.expect_dead(2);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_filter_is_wrong_use_and_selects_nothing() {
    let system = TestSystem::new("an_empty_filter_is_wrong_use_and_selects_nothing").await;
    system.insert_dead_letters(3).await;
    let subcommands = [
        vec!["list"],
        vec!["export"],
        vec!["retry"],
        vec!["restore"],
        vec!["discard", "--why", "cleanup"],
        vec!["retry", "--all"],
    ];
    for subcommand in &subcommands {
        for option in ["--status", "--queue", "--type", "--reason", "--grep", "--since", "--group"] {
            for empty in ["", " ", "\t"] {
                let arguments = [&["dead-letters"], &subcommand[..], &[option, empty]].concat();
                let wrong = system.cli(&arguments).await.exits(2).text();
                assert!(wrong.contains(option), "{wrong}");
            }
        }
    }
    for arguments in [
        &["retry", ""][..],
        &["discard", "--all", "--why", ""],
        &["discard", "--all", "--why", " "],
        &["retry", "--all", "--why", ""],
        &["show", ""],
        &["edit", "1", "--type", ""],
        &["edit", "1", "--message-id", " "],
        &["edit", "1", "--body", ""],
        &["list", "--reason", "no-such-reason"],
    ] {
        system.cli(&[&["dead-letters"], arguments].concat()).await.exits(2);
    }
    system.cli(&["orders", "show", ""]).await.exits(2);
    system.cli(&["outbox", "retry", ""]).await.exits(2);
    assert_eq!((system.count(DEAD).await, system.count(ACTIONS).await), (3, 0));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn since_takes_a_duration_a_date_or_a_time_with_its_zone() {
    let system = TestSystem::new("since_takes_a_duration_a_date_or_a_time_with_its_zone").await;
    system.insert_dead_letters(3).await;
    for (id, time) in
        [("m-1", "2026-11-24T23:59:59Z"), ("m-2", "2026-11-25T01:59:59Z"), ("m-3", "2026-11-25T02:30:00Z")]
    {
        let set =
            sqlx::query("update failed_messages set last_failed_at = $2::timestamptz where message_id = $1");
        set.bind(id).bind(time).execute(&system.pool).await.unwrap();
    }
    let long_ago = "2026-11-25T02:30:00Z";
    let within = format!(
        "{}s",
        system.count("select extract(epoch from now() - '2026-11-25T02:00:00Z')::bigint").await
    );
    let mut cases = vec![
        ("2026-11-25T03:00:00+01:00", 1),
        ("2026-11-25T02:00:00Z", 1),
        ("2026-11-25T00:59:59+01:00", 3 - 1),
        ("2026-11-25", 2),
        ("2026-11-24", 3),
        ("9999-01-01", 0),
    ];
    // The times of the messages may be in the future of the clock.
    if system.count("select (now() > '2026-11-25T02:30:00Z')::integer::bigint").await == 1 {
        cases.push((within.as_str(), 1));
    }
    for (since, count) in cases {
        let report =
            system.cli(&["--json", "dead-letters", "retry", "--dry-run", "--since", since]).await.exits(0);
        assert_eq!(report.json()["matched"], json!(count), "{since}, {long_ago}");
        let listed = system.cli(&["--json", "dead-letters", "list", "--since", since]).await.exits(0);
        assert_eq!(ids(&listed).len(), count, "{since}");
    }
    for invalid in ["yesterday", "2026-11-25T03:00:00", "25.11.2026", "300000000000y", "-1h"] {
        let list = ["dead-letters", "list", &format!("--since={invalid}")];
        system.cli(&list).await.exits(2);
    }
    system.close().await;
}
