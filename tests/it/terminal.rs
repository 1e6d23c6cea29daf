//! Text from messages on the terminal: no character can control it, hide text or change its direction.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, as_tested_role, properties, wait_for};

/// Ways to change what a reader sees: the direction of text, an escape sequence, a hidden character, a new line.
const HOSTILE: &str = "x\u{202e}y\u{2066}\u{9b}31m\u{1b}[2J\u{200b}\u{feff}\u{2028}\u{e0041}\u{7f}\nz";

fn is_hostile(character: char) -> bool {
    HOSTILE.contains(character) && !"xyz[2J31m\n".contains(character)
}

#[track_caller]
fn assert_safe(name: &str, text: &str) {
    let found: Vec<_> = text.chars().filter(|character| is_hostile(*character)).collect();
    assert!(found.is_empty(), "{name}: {found:?} in {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_message_reaches_the_terminal_as_it_is() {
    let system = TestSystem::new("no_text_of_a_message_reaches_the_terminal_as_it_is").await;
    system.expect_dead(3);
    let attempts = [("ALLOCATION__RETRY__MAX_ATTEMPTS", "1"), ("ALLOCATION__LOG__FILTER", "debug")];
    let worker = system.worker_with(&attempts);
    let unknown = allocate("o-1", HOSTILE, 1);
    system.sender.send(&unknown).await;
    let mut headers = FieldTable::default();
    headers.insert("h\u{202e}".into(), AMQPValue::LongString(HOSTILE.into()));
    let sent = properties(HOSTILE, "o-2").with_headers(headers).with_app_id(HOSTILE.into());
    system.sender.publish_raw("allocate", sent, HOSTILE.as_bytes()).await;
    let named = properties("allocate", HOSTILE);
    system.sender.publish_raw("allocate", named, unknown.body.to_string().as_bytes()).await;
    let dead = "select count(*) from failed_messages where status = 'dead'";
    wait_for("all are dead", DRAINS_WITHIN, &3, async || system.count(dead).await).await;

    assert_safe("log", &worker.log());
    let why = ["dead-letters", "retry", "--all", "--dry-run", "--why", HOSTILE];
    system.cli(&why).await.exits(0);
    for arguments in [&["list"][..], &["groups"], &["show", "1"], &["show", "2"], &["show", "3"]] {
        let call = [&["dead-letters"], arguments].concat();
        assert_safe("text", &system.cli(&call).await.exits(0).text());
        let json = system.cli(&[&["--json"], &call[..]].concat()).await.exits(0);
        assert_safe("JSON", &json.text());
        json.json();
    }
    // The environment says who it is; the database knows who is logged in.
    for action in [&["discard", "--why", "test"][..], &["restore"]] {
        let call = [&["dead-letters"], action, &["1"]].concat();
        system.cli_with(&call, &[("SUDO_USER", HOSTILE)]).await.exits(0);
    }
    let show = system.cli(&["dead-letters", "show", "1", "--json"]).await.exits(0);
    let action = &show.json()["actions"][0];
    assert_safe("who", action["who"].as_str().unwrap());
    let program = url::Url::parse(&as_tested_role(&system.database_url(), &[])).unwrap();
    assert_eq!(action["database_user"], program.username(), "{action}");
    assert!(action["address"].is_string(), "{action}");
    let exported = system.cli(&["dead-letters", "export"]).await.exits(0);
    assert_safe("export", &exported.text());
    let bodies: Vec<_> = exported.json_lines().into_iter().map(|letter| letter["body"].clone()).collect();
    assert!(bodies.contains(&json!(HOSTILE)), "the JSON has the same value: {bodies:?}");
    system.close_after([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_file_or_an_order_reaches_the_terminal_as_it_is() {
    let system = TestSystem::new("no_text_of_a_file_or_an_order_reaches_the_terminal_as_it_is").await;
    let line = json!({ "type": HOSTILE, "message_id": HOSTILE, "body": { HOSTILE: 1 } });
    let field = json!({ "type": "allocate", HOSTILE: 1, "body": {} });
    let file = system.file("lines", format!("{line}\n{field}\n").as_bytes());
    assert_safe("send", &system.cli(&["send", "--file", file.to_str().unwrap()]).await.exits(1).text());
    let orders = "insert into allocations_view (orderid, sku, qty, batchref) values ($1, $1, 1, $1)";
    sqlx::query(orders).bind(HOSTILE).execute(&system.pool).await.unwrap();
    assert_safe("order", &system.cli(&["orders", "show", HOSTILE]).await.exits(0).text());
    let json = system.cli(&["--json", "orders", "show", HOSTILE]).await.exits(0);
    assert_safe("order as JSON", &json.text());
    assert_eq!(json.json()["orderid"], HOSTILE);
    assert_safe("no order", &system.cli(&["orders", "show", &format!("{HOSTILE}2")]).await.exits(1).text());
    sqlx::query("delete from allocations_view").execute(&system.pool).await.unwrap();
    system.close().await;
}

/// JSON log lines keep their values.
#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_line_has_escapes_for_hidden_characters() {
    let system = TestSystem::new("a_json_log_line_has_escapes_for_hidden_characters").await;
    system.expect_dead(1);
    let json = [("ALLOCATION__RETRY__MAX_ATTEMPTS", "1"), ("ALLOCATION__LOG__FORMAT", "json")];
    let worker = system.worker_with(&json);
    system.sender.send(&allocate("o-1", "NO\u{202e}SKU", 1)).await;
    let dead = "select count(*) from failed_messages where status = 'dead'";
    wait_for("it is dead", DRAINS_WITHIN, &1, async || system.count(dead).await).await;
    let log = worker.log();
    assert_safe("log", &log);
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    system.close_after([worker]).await;
}
