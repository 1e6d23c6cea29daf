//! Notifications by mail: one for each `out_of_stock` event.

mod outages;

use std::{collections::BTreeSet, ops::RangeInclusive};

use serde_json::{Value, json};

use crate::harness::{
    DRAINS_WITHIN, Event, Mail, MailServer, RawMessage, Running, TestSystem, allocate, create_batch,
    properties, wait_for,
};

/// The roles from the command to the mail.
const ROLES: &str = "worker,relay,notifier";
/// A failed mail is retried once, soon.
const ONE_RETRY: &[(&str, &str)] =
    &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "2"), ("ALLOCATION__RETRY__INITIAL_INTERVAL", "100ms")];
const NOTIFICATIONS_HANDLED: &str = "select count(*) from inbox where queue = 'notifications'";
const FAILURES: &str = "select count(*) from failed_messages";
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RESOLVED: &str = "select count(*) from failed_messages where status = 'resolved'";
const ATTEMPTS: &str = "select count(*) from failed_attempts";
const STARTS: &str = "select count(*) from message_starts";

/// A system with a product without stock.
async fn nothing_in_stock(name: &str, settings: &[(&str, &str)]) -> (TestSystem, MailServer, Running) {
    let (system, server) = (TestSystem::new(name).await, MailServer::start().await);
    let process = system.notifier(ROLES, &server, settings);
    system.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    system.wait_handled(1).await;
    (system, server, process)
}

/// Allocates lines of two units.
async fn order(system: &TestSystem, numbers: RangeInclusive<u32>) {
    let lines: Vec<_> = numbers.map(|number| allocate(&format!("o-{number}"), "LAMP", 2)).collect();
    system.sender.send_all(&lines).await;
}

async fn wait_notified(system: &TestSystem, events: i64) {
    wait_for("notifications are handled", DRAINS_WITHIN, &events, async || {
        system.count(NOTIFICATIONS_HANDLED).await
    })
    .await;
}

/// Waits for a dead letter of the notifications, and returns it as the command line prints it.
async fn dead(system: &TestSystem) -> Value {
    wait_for("a notification is dead", DRAINS_WITHIN, &1, async || system.count(DEAD).await).await;
    let list = ["--json", "dead-letters", "list", "--queue", "notifications"];
    system.cli(&list).await.exits(0).json()[0].take()
}

/// The event of a mail.
fn event_of(mail: &Mail) -> String {
    let id = mail.header("Message-ID").expect("a mail has a Message-ID");
    let inside = id.strip_prefix('<').and_then(|id| id.split_once('@'));
    inside.expect("the Message-ID contains the event").0.to_owned()
}

/// The events of all mails, sorted; an event with two mails occurs twice.
fn mailed_events(server: &MailServer) -> Vec<String> {
    let mut events: Vec<_> = server.script().accepted.iter().map(event_of).collect();
    events.sort_unstable();
    events
}

/// The distinct ids of events, sorted.
fn ids(events: &[Event]) -> Vec<String> {
    let ids: BTreeSet<_> = events.iter().map(|event| event.id().to_owned()).collect();
    ids.into_iter().collect()
}

/// An event, as the relay publishes it.
fn out_of_stock(system: &TestSystem, event_id: &str, orderid: &str) -> RawMessage {
    RawMessage {
        exchange: system.named("events"),
        routing_key: "out_of_stock".into(),
        properties: properties("out_of_stock", event_id),
        body: json!({ "orderid": orderid, "sku": "LAMP", "qty": 2 }).to_string().into_bytes(),
    }
}

/// I8 of the book.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_names_sender_recipients_sku_and_event() {
    let addresses = [
        ("ALLOCATION__NOTIFICATIONS__FROM", "Stock <stock@shop.example>"),
        ("ALLOCATION__NOTIFICATIONS__TO", "buyer@shop.example, desk@shop.example"),
    ];
    let name = "a_mail_names_sender_recipients_sku_and_event";
    let (system, server, process) = nothing_in_stock(name, &addresses).await;
    order(&system, 1..=1).await;
    let events = system.settled(2).await;
    wait_notified(&system, 1).await;

    let mails = server.script().accepted.clone();
    let [mail] = &mails[..] else { panic!("{mails:?}") };
    assert_eq!(mail.from, "stock@shop.example");
    assert_eq!(mail.to, ["buyer@shop.example", "desk@shop.example"]);
    assert_eq!(mail.header("From"), Some("Stock <stock@shop.example>"));
    assert_eq!(mail.header("To"), Some("buyer@shop.example, desk@shop.example"));
    assert_eq!(mail.header("Subject"), Some("Out of stock for LAMP"));
    let id = format!("<{}@shop.example>", events[0].id());
    assert_eq!(mail.header("Message-ID"), Some(id.as_str()));
    assert!(mail.text().contains("Out of stock for LAMP"), "{mail:?}");
    assert!(mail.text().contains("Order o-1 waits for 2"), "{mail:?}");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_mail_is_dead_lettered_and_sent_by_a_retry() {
    let name = "a_rejected_mail_is_dead_lettered_and_sent_by_a_retry";
    let (system, server, process) = nothing_in_stock(name, ONE_RETRY).await;
    server.script().rejected_recipient = Some("stock@");
    order(&system, 1..=1).await;
    let letter = dead(&system).await;
    assert_eq!(letter["queue"], system.named("notifications"));
    assert_eq!((&letter["type"], &letter["reason"]), (&json!("out_of_stock"), &json!("rejected")));
    assert_eq!(letter["attempts"], 2);
    let error = letter["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("the notification was not delivered: rejected by the receiver: permanent error (550)"),
        "{error}"
    );
    assert!(server.script().accepted.is_empty());

    server.script().rejected_recipient = None;
    system.cli(&["dead-letters", "retry", &letter["id"].to_string()]).await.exits(0);
    wait_notified(&system, 1).await;
    let events = system.settled(2).await;
    assert_eq!(mailed_events(&server), ids(&events));
    assert_eq!(letter["message_id"], events[0].id());
    assert_eq!(system.count(RESOLVED).await, 1);
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_the_text_of_a_mail_and_not_its_event() {
    let name = "an_edit_changes_the_text_of_a_mail_and_not_its_event";
    let (system, server, process) = nothing_in_stock(name, ONE_RETRY).await;
    server.script().rejected_content = Some("LAMP");
    order(&system, 1..=1).await;
    let letter = dead(&system).await;
    assert_eq!(letter["reason"], "rejected");

    let edited = system.file("edited.json", br#"{"orderid": "o-1", "sku": "LIGHT", "qty": 2}"#);
    let (id, edited) = (letter["id"].to_string(), edited.to_str().unwrap());
    system.cli(&["dead-letters", "edit", &id, "--body", edited]).await.exits(0);
    wait_notified(&system, 1).await;
    let events = system.settled(2).await;
    assert_eq!(mailed_events(&server), ids(&events));
    assert_eq!(server.script().accepted[0].header("Subject"), Some("Out of stock for LIGHT"));
    assert_eq!(system.count(RESOLVED).await, 1);
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_mail_is_retried() {
    let name = "a_deferred_mail_is_retried";
    let (system, server, process) = nothing_in_stock(name, ONE_RETRY).await;
    server.script().deferred_recipients = 1;
    order(&system, 1..=1).await;
    wait_notified(&system, 1).await;
    let events = system.settled(2).await;
    assert_eq!(mailed_events(&server), ids(&events));
    let counts = (system.count(RESOLVED).await, system.count(FAILURES).await, system.count(ATTEMPTS).await);
    assert_eq!(counts, (1, 1, 1));
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_published_twice_causes_one_mail() {
    let system = TestSystem::new("an_event_that_is_published_twice_causes_one_mail").await;
    let server = MailServer::start().await;
    let notifier = system.notifier("notifier", &server, &[]);
    // Events of one order are handled in order: when the last one is handled, the duplicate has been handled, too.
    let (event, last) = (out_of_stock(&system, "event-1", "o-1"), out_of_stock(&system, "event-2", "o-1"));
    system.sender.publish_all(&[event.clone(), event, last]).await;
    wait_notified(&system, 2).await;
    assert_eq!(mailed_events(&server), ["event-1", "event-2"]);
    assert_eq!(system.count(FAILURES).await, 0);
    system.close_after([notifier]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_notification_is_dead_lettered_without_blocking_others() {
    let system = TestSystem::new("an_invalid_notification_is_dead_lettered_without_blocking_others").await;
    system.expect_dead(1);
    let server = MailServer::start().await;
    let notifier = system.notifier("notifier", &server, &[]);
    let invalid = RawMessage { body: b"no JSON".to_vec(), ..out_of_stock(&system, "event-1", "o-1") };
    system.sender.publish_all(&[invalid, out_of_stock(&system, "event-2", "o-2")]).await;
    wait_notified(&system, 1).await;
    let letter = dead(&system).await;
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("invalid_message"), &json!(1)));
    assert_eq!(mailed_events(&server), ["event-2"]);
    system.close_after([notifier]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_wrong_queue_is_dead_lettered_without_blocking_others() {
    let name = "a_message_in_the_wrong_queue_is_dead_lettered_without_blocking_others";
    let (system, server, process) = nothing_in_stock(name, ONE_RETRY).await;
    system.expect_dead(2);
    let body = json!({ "orderid": "o-wrong-queue", "sku": "LAMP", "qty": 2 }).to_string().into_bytes();
    let among_orders = system.sender.raw("allocate", properties("out_of_stock", "wrong-1"), &body);
    let among_notifications = RawMessage {
        exchange: String::new(),
        routing_key: system.named("notifications"),
        properties: properties("allocate", "wrong-2"),
        body,
    };
    system.sender.publish_all(&[among_orders, among_notifications]).await;
    order(&system, 1..=1).await;
    wait_for("both are dead", DRAINS_WITHIN, &2, async || system.count(DEAD).await).await;
    wait_notified(&system, 1).await;
    let events = system.settled(2).await;
    assert_eq!(mailed_events(&server), ids(&events));
    assert_eq!(system.count("select count(*) from order_lines").await, 1);

    let dead: Vec<(String, String, String, i32)> =
        sqlx::query_as("select queue, type, reason, attempts from failed_messages order by queue")
            .fetch_all(&system.pool)
            .await
            .unwrap();
    let letter =
        |queue: &str, kind: &str| (queue.to_owned(), kind.to_owned(), "unknown_command".to_owned(), 1);
    assert_eq!(dead, [letter("notifications", "allocate"), letter("orders", "out_of_stock")]);
    system.close_after([process]).await;
}

/// Two notifiers and events that are published twice: each mail is sent once, since a duplicate waits for the first message.
#[tokio::test(flavor = "multi_thread")]
async fn two_notifiers_send_one_mail_for_an_event_that_is_published_twice() {
    let system = TestSystem::new("two_notifiers_send_one_mail_for_an_event_that_is_published_twice").await;
    let server = MailServer::start().await;
    let events: Vec<_> = (0..20)
        .flat_map(|number| {
            let event = out_of_stock(&system, &format!("event-{number:02}"), &format!("o-{number}"));
            [event.clone(), event]
        })
        .collect();
    let notifiers =
        [system.notifier("notifier", &server, ONE_RETRY), system.notifier("notifier", &server, ONE_RETRY)];
    system.sender.publish_all(&events).await;
    wait_notified(&system, 20).await;
    wait_for("the queue is empty", DRAINS_WITHIN, &0, async || system.ready("notifications").await).await;
    let expected: Vec<_> = (0..20).map(|number| format!("event-{number:02}")).collect();
    assert_eq!(mailed_events(&server), expected);
    assert_eq!((system.count(FAILURES).await, system.count(STARTS).await), (0, 0));
    system.close_after(notifiers).await;
}

/// Fifty backorders within a second, of two products.
#[tokio::test(flavor = "multi_thread")]
async fn the_notifications_of_a_window_are_one_mail_with_a_list() {
    let digest = [("ALLOCATION__NOTIFICATIONS__DIGEST", "3s")];
    let (system, server, process) =
        nothing_in_stock("the_notifications_of_a_window_are_one_mail_with_a_list", &digest).await;
    order(&system, 1..=50).await;
    wait_notified(&system, 50).await;
    let mails = server.script().accepted.clone();
    assert!(mails.len() <= 3, "{} mails", mails.len());
    let text: String = mails.iter().map(Mail::text).collect();
    for number in 1..=50 {
        let line = format!("LAMP: order o-{number} waits for 2");
        assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}\n{text}");
    }
    system.close_after([process]).await;
}

/// The process is killed while it collects notifications: nothing is lost, and nothing is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn notifications_that_were_being_collected_are_sent_by_the_next_process() {
    let name = "notifications_that_were_being_collected_are_sent_by_the_next_process";
    let (system, server, process) =
        nothing_in_stock(name, &[("ALLOCATION__NOTIFICATIONS__DIGEST", "15m")]).await;
    order(&system, 1..=5).await;
    wait_for("notifications are being collected", DRAINS_WITHIN, &0, async || {
        system.ready("notifications").await
    })
    .await;
    system.settled(6).await;
    process.kill().await;
    system.expect_redeliveries();
    assert_eq!(server.script().accepted.len(), 0);
    let process = system.notifier(ROLES, &server, &[("ALLOCATION__NOTIFICATIONS__DIGEST", "1s")]);
    wait_notified(&system, 5).await;
    assert_eq!(server.script().accepted.len(), 1);
    system.close_after([process]).await;
}

/// A mail server that defers every mail of an unknown sender at first.
#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_mail_is_retried_more_often_than_a_failed_command() {
    let name = "a_deferred_mail_is_retried_more_often_than_a_failed_command";
    let multiplier = ("ALLOCATION__RETRY__MULTIPLIER", "1");
    let (system, server, process) = nothing_in_stock(name, &[ONE_RETRY, &[multiplier]].concat()).await;
    server.script().deferred_recipients = 7;
    order(&system, 1..=1).await;
    wait_notified(&system, 1).await;
    assert_eq!(server.script().accepted.len(), 1);
    assert_eq!((system.count(ATTEMPTS).await, system.count(RESOLVED).await), (7, 1));
    system.close_after([process]).await;
}
