//! Edits of dead letters: what counts as a change, and what stays as it is.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::harness::{CliOutput, SOON, TestSystem, wait_until};

const BODY: &str = r#"{"qty":-5,  "sku":"LAMP", "orderid":"o-1", "note":"größe", "n":1.50}"#;

/// A dead letter with a body, and its id.
async fn dead_letter(system: &TestSystem, body: &[u8]) -> String {
    system.insert_dead_letters(1).await;
    let set = sqlx::query_scalar::<_, i64>("update failed_messages set body = $1 returning id").bind(body);
    set.fetch_one(&system.pool).await.unwrap().to_string()
}

async fn edit(system: &TestSystem, id: &str, arguments: &[&str], editor: &str) -> CliOutput {
    let edit = ["dead-letters", "edit", id, "--why", "a test"];
    system.cli_with(&[&edit[..], arguments].concat(), &[("EDITOR", editor), ("VISUAL", editor)]).await
}

/// Type, body, status and the number of recorded actions.
async fn state(system: &TestSystem) -> (String, String, String, i64) {
    let row: (String, Vec<u8>, String) = sqlx::query_as("select type, body, status from failed_messages")
        .fetch_one(&system.pool)
        .await
        .unwrap();
    let actions = system.count("select count(*) from failed_actions").await;
    (row.0, String::from_utf8_lossy(&row.1).into_owned(), row.2, actions)
}

fn untouched(body: &str) -> (String, String, String, i64) {
    ("allocate".into(), body.into(), "dead".into(), 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_changes_nothing_does_nothing() {
    let system = TestSystem::new("an_edit_that_changes_nothing_does_nothing").await;
    let id = dead_letter(&system, BODY.as_bytes()).await;
    let same = system.file("same", BODY.as_bytes());
    let reordered = system.file(
        "reordered",
        "{\n\t\"orderid\": \"o-1\", \"sku\": \"LAMP\", \"qty\": -5, \"n\": 1.50, \"note\": \"gr\\u00f6\\u00dfe\"}\n"
            .as_bytes(),
    );
    for (arguments, editor) in [
        (&[][..], "true"),
        (&["--body", same.to_str().unwrap()], "false"),
        (&["--body", reordered.to_str().unwrap()], "false"),
        (&["--type", "allocate"], "false"),
        (&["--message-id", "m-1", "--type", "allocate"], "false"),
    ] {
        let text = edit(&system, &id, arguments, editor).await.exits(1).text();
        assert!(text.contains("nothing changed"), "{arguments:?}: {text}");
        assert_eq!(state(&system).await, untouched(BODY), "{arguments:?}");
    }
    let report =
        system.cli(&["--json", "dead-letters", "edit", &id, "--type", "allocate"]).await.exits(1).json();
    assert_eq!(report, json!({ "matched": 1, "done": 0, "skipped": 1, "failed": 0 }));
    system.close().await;
}

/// The body is not JSON, and many editors end the last line.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_end_that_an_editor_adds_to_text_is_no_change() {
    let system = TestSystem::new("a_line_end_that_an_editor_adds_to_text_is_no_change").await;
    let id = dead_letter(&system, b"no JSON").await;
    let editor = system.file("editor.sh", b"echo >> \"$1\"\n");
    let text = edit(&system, &id, &[], &format!("sh {}", editor.display())).await.exits(1).text();
    assert!(text.contains("nothing changed"), "{text}");
    assert_eq!(state(&system).await, untouched("no JSON"));
    system.close().await;
}

/// A repeated field and a number of another notation are the reason why these are dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_given_twice_or_a_number_written_differently_is_a_change() {
    for (dead, edited) in [
        (
            r#"{"orderid": "o-1", "sku": "LAMP", "qty": 1, "qty": 2}"#,
            r#"{"orderid": "o-1", "sku": "LAMP", "qty": 2}"#,
        ),
        (
            r#"{"orderid": "o-1", "sku": "LAMP", "qty": 2.0}"#,
            r#"{"orderid": "o-1", "sku": "LAMP", "qty": 2}"#,
        ),
    ] {
        let system = TestSystem::new("a_field_given_twice_or_a_number_written_differently_is_a_change").await;
        let id = dead_letter(&system, dead.as_bytes()).await;
        let body = system.file("body", edited.as_bytes());
        edit(&system, &id, &["--body", body.to_str().unwrap()], "false").await.exits(0);
        assert_eq!(state(&system).await, ("allocate".into(), edited.into(), "retrying".into(), 1));
        system.expect_dead(0);
        system.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_type_alone_keeps_the_bytes_of_the_body() {
    let body = r#"{"sku":"LAMP",  "orderid":"o-1"}"#;
    let system = TestSystem::new("a_new_type_alone_keeps_the_bytes_of_the_body").await;
    let id = dead_letter(&system, body.as_bytes()).await;
    let text = edit(&system, &id, &["--type", "create_batch"], "false").await.exits(1).text();
    assert!(text.contains("not a valid create_batch"), "{text}");
    assert_eq!(state(&system).await, untouched(body));
    edit(&system, &id, &["--type", "deallocate"], "false").await.exits(0);
    assert_eq!(state(&system).await, ("deallocate".into(), body.into(), "retrying".into(), 1));
    system.expect_dead(0);
    system.close().await;
}

/// The editor shows one field in each line; the stored fields keep their order and their digits.
#[tokio::test(flavor = "multi_thread")]
async fn an_editor_shows_the_fields_as_they_are_stored() {
    let system = TestSystem::new("an_editor_shows_the_fields_as_they_are_stored").await;
    let id = dead_letter(&system, BODY.as_bytes()).await;
    let shown = system.file("shown", b"");
    let editor = format!("cp -f $2 {} ; sed -i s/-5/5/", shown.display());
    let editor = system
        .file("editor.sh", editor.replace("$2", "\"$1\"").replace("s/-5/5/", "s/-5/5/ \"$1\"").as_bytes());
    let text = edit(&system, &id, &[], &format!("sh {}", editor.display())).await.exits(0).text();
    assert!(text.contains("-  \"qty\": -5,\n+  \"qty\": 5,"), "{text}");
    let expected = "{\n  \"qty\": -5,\n  \"sku\": \"LAMP\",\n  \"orderid\": \"o-1\",\n  \"note\": \"größe\",\n  \"n\": 1.50\n}\n";
    assert_eq!(std::fs::read_to_string(shown).unwrap(), expected);
    let body: Value = serde_json::from_str(&state(&system).await.1).unwrap();
    assert_eq!(body["qty"], 5);
    system.expect_dead(0);
    system.close().await;
}

/// The file of an editor has the body of a message; so have the copies that editors write beside it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_the_file_of_an_editor_also_after_a_signal() {
    let system = TestSystem::new("nothing_is_left_of_the_file_of_an_editor_also_after_a_signal").await;
    system.insert_dead_letters(1).await;
    let id = system.count("select id from failed_messages").await.to_string();
    let folder = tempfile::tempdir().unwrap();
    let left = || std::fs::read_dir(folder.path()).unwrap().count();
    let opened = system.file("not-yet", b"").with_file_name("opened");
    for signal in [None, Some("TERM"), Some("HUP")] {
        let waits = if signal.is_some() { "sleep 60" } else { "true" };
        let editor = format!("sh -c 'cp \"$1\" \"$1~\"; touch {}; {waits}' editor", opened.display());
        let mut edit = system.command(&["dead-letters", "edit", &id]);
        edit.env("EDITOR", editor).env("TMPDIR", folder.path()).env_remove("VISUAL").stderr(Stdio::null());
        let mut edit = edit.spawn().unwrap();
        wait_until("the editor is open", SOON, async || opened.exists()).await;
        if let Some(signal) = signal {
            assert_eq!(left(), 1, "a private folder");
            let pid = edit.id().unwrap();
            let sent = Command::new("sh").arg("-c").arg(format!("kill -s {signal} {pid}")).status();
            assert!(sent.await.unwrap().success());
        }
        let status = timeout(SOON, edit.wait()).await.expect("it ends").unwrap();
        assert_eq!(status.code(), Some(1), "{signal:?}");
        assert_eq!(left(), 0, "{signal:?}");
        std::fs::remove_file(&opened).unwrap();
    }
    system.close().await;
}
