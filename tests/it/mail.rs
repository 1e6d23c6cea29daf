//! Whoever buys is told by mail what is out of stock: once for each event, whatever happens on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use crate::harness::{
    DRAINS_WITHIN, Event, Mail, MailServer, Random, Raw, Running, World, allocate, create_batch, properties,
    wait_for, wait_until,
};

/// A process that does everything from the command to the mail.
const ROLES: &str = "worker,relay,notifier";
/// A mail that fails is tried once more, soon.
const HASTY: &[(&str, &str)] =
    &[("ALLOCATION__RETRY__MAX_ATTEMPTS", "2"), ("ALLOCATION__RETRY__INITIAL_INTERVAL", "100ms")];
const NOTIFICATIONS_HANDLED: &str = "select count(*) from inbox where queue = 'notifications'";
const FAILURES: &str = "select count(*) from failed_messages";
const DEAD: &str = "select count(*) from failed_messages where status = 'dead'";
const RESOLVED: &str = "select count(*) from failed_messages where status = 'resolved'";
const ATTEMPTS: &str = "select count(*) from failed_attempts";
const STARTS: &str = "select count(*) from message_starts";
/// A killed notifier may have held so many, and two of them were being sent.
const HELD: usize = 20;

/// A world in which a product is known and none of it is there.
async fn nothing_in_stock(name: &str, settings: &[(&str, &str)]) -> (World, MailServer, Running) {
    let (world, server) = (World::new(name).await, MailServer::start().await);
    let process = world.notifier(ROLES, &server, settings);
    world.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    world.wait_handled(1).await;
    (world, server, process)
}

/// Orders of two lamps each.
async fn order(world: &World, numbers: RangeInclusive<u32>) {
    let lines: Vec<_> = numbers.map(|number| allocate(&format!("o-{number}"), "LAMP", 2)).collect();
    world.sender.send_all(&lines).await;
}

async fn wait_told(world: &World, events: i64) {
    wait_for("people are told", DRAINS_WITHIN, &events, async || world.count(NOTIFICATIONS_HANDLED).await)
        .await;
}

/// Waits until a notification is dead, and says what the command line says of it.
async fn dead(world: &World) -> Value {
    wait_for("a notification is dead", DRAINS_WITHIN, &1, async || world.count(DEAD).await).await;
    let list = ["--json", "dead-letters", "list", "--queue", "notifications"];
    world.cli(&list).await.exits(0).json()[0].take()
}

/// The event a mail tells of.
fn event_of(mail: &Mail) -> String {
    let id = mail.header("Message-ID").expect("a mail has an id");
    let inside = id.strip_prefix('<').and_then(|id| id.split_once('@'));
    inside.expect("a mail's id names its event").0.to_owned()
}

/// The events of all mails, sorted; an event that two mails tell of is there twice.
fn events_told(server: &MailServer) -> Vec<String> {
    let mut told: Vec<_> = server.desk().taken.iter().map(event_of).collect();
    told.sort_unstable();
    told
}

/// The ids of events, sorted, each once.
fn ids(events: &[Event]) -> Vec<String> {
    let ids: BTreeSet<_> = events.iter().map(|event| event.id().to_owned()).collect();
    ids.into_iter().collect()
}

/// An event as the relay publishes it.
fn out_of_stock(world: &World, event_id: &str, orderid: &str) -> Raw {
    Raw {
        exchange: world.named("events"),
        routing_key: "out_of_stock".into(),
        properties: properties("out_of_stock", event_id),
        body: json!({ "orderid": orderid, "sku": "LAMP", "qty": 2 }).to_string().into_bytes(),
    }
}

/// I8.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_stock_is_told_by_one_mail_that_names_its_event() {
    let addresses = [
        ("ALLOCATION__NOTIFICATIONS__FROM", "Stock <stock@shop.example>"),
        ("ALLOCATION__NOTIFICATIONS__TO", "buyer@shop.example, desk@shop.example"),
    ];
    let name = "what_is_out_of_stock_is_told_by_one_mail_that_names_its_event";
    let (world, server, process) = nothing_in_stock(name, &addresses).await;
    order(&world, 1..=1).await;
    let events = world.settled(2).await;
    wait_told(&world, 1).await;

    let mails = server.desk().taken.clone();
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
    world.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_mail_server_is_away_nothing_is_lost_and_nothing_counts() {
    let name = "while_the_mail_server_is_away_nothing_is_lost_and_nothing_counts";
    let (world, mut server, process) = nothing_in_stock(name, HASTY).await;
    order(&world, 1..=1).await;
    wait_told(&world, 1).await;
    server.stop().await;
    order(&world, 2..=4).await;
    let noticed = async || process.log().contains("mail server unavailable");
    wait_until("it is noticed that the server is away", DRAINS_WITHIN, noticed).await;
    let events = world.settled(5).await; // everything else goes on
    assert_eq!(world.count(NOTIFICATIONS_HANDLED).await, 1);

    server.start_again().await;
    wait_told(&world, 4).await;
    let noticed = async || process.log().contains("mail server available again");
    wait_until("it is noticed that the server is back", DRAINS_WITHIN, noticed).await;
    assert_eq!(events_told(&server), ids(&events));
    assert_eq!(world.count(FAILURES).await, 0);
    world.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_mail_is_dead_in_the_end_and_arrives_when_it_is_retried() {
    let name = "a_refused_mail_is_dead_in_the_end_and_arrives_when_it_is_retried";
    let (world, server, process) = nothing_in_stock(name, HASTY).await;
    server.desk().refused_recipient = Some("stock@");
    order(&world, 1..=1).await;
    let letter = dead(&world).await;
    assert_eq!(letter["queue"], world.named("notifications"));
    assert_eq!((&letter["type"], &letter["reason"]), (&json!("out_of_stock"), &json!("rejected")));
    assert_eq!(letter["attempts"], 2);
    let error = letter["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("the notification failed: rejected by the receiver: permanent error (550)"),
        "{error}"
    );
    assert!(server.desk().taken.is_empty());

    server.desk().refused_recipient = None;
    world.cli(&["dead-letters", "retry", &letter["id"].to_string()]).await.exits(0);
    wait_told(&world, 1).await;
    let events = world.settled(2).await;
    assert_eq!(events_told(&server), ids(&events));
    assert_eq!(letter["message_id"], events[0].id());
    assert_eq!(world.count(RESOLVED).await, 1);
    world.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_what_a_mail_says_and_not_what_it_tells_of() {
    let name = "an_edit_changes_what_a_mail_says_and_not_what_it_tells_of";
    let (world, server, process) = nothing_in_stock(name, HASTY).await;
    server.desk().refused_content = Some("LAMP");
    order(&world, 1..=1).await;
    let letter = dead(&world).await;
    assert_eq!(letter["reason"], "rejected");

    let mended = world.file("mended.json", br#"{"orderid": "o-1", "sku": "LIGHT", "qty": 2}"#);
    let (id, mended) = (letter["id"].to_string(), mended.to_str().unwrap());
    world.cli(&["dead-letters", "edit", &id, "--body", mended]).await.exits(0);
    wait_told(&world, 1).await;
    let events = world.settled(2).await;
    assert_eq!(events_told(&server), ids(&events));
    assert_eq!(server.desk().taken[0].header("Subject"), Some("Out of stock for LIGHT"));
    assert_eq!(world.count(RESOLVED).await, 1);
    world.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_put_off_is_tried_again() {
    let name = "a_mail_that_is_put_off_is_tried_again";
    let (world, server, process) = nothing_in_stock(name, HASTY).await;
    server.desk().put_off = 1;
    order(&world, 1..=1).await;
    wait_told(&world, 1).await;
    let events = world.settled(2).await;
    assert_eq!(events_told(&server), ids(&events));
    let counts = (world.count(RESOLVED).await, world.count(FAILURES).await, world.count(ATTEMPTS).await);
    assert_eq!(counts, (1, 1, 1));
    world.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_published_twice_is_told_once() {
    let world = World::new("an_event_that_is_published_twice_is_told_once").await;
    let server = MailServer::start().await;
    let notifier = world.notifier("notifier", &server, &[]);
    // Events of one order are handled one after the other: when the last is told, the repeat has been looked at.
    let (event, last) = (out_of_stock(&world, "event-1", "o-1"), out_of_stock(&world, "event-2", "o-1"));
    world.sender.publish_all(&[event.clone(), event, last]).await;
    wait_told(&world, 2).await;
    assert_eq!(events_told(&server), ["event-1", "event-2"]);
    assert_eq!(world.count(FAILURES).await, 0);
    world.close_after([notifier]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_cannot_be_read_is_dead_and_holds_up_nobody() {
    let world = World::new("a_notification_that_cannot_be_read_is_dead_and_holds_up_nobody").await;
    world.expect_dead(1);
    let server = MailServer::start().await;
    let notifier = world.notifier("notifier", &server, &[]);
    let unreadable = Raw { body: b"no JSON".to_vec(), ..out_of_stock(&world, "event-1", "o-1") };
    world.sender.publish_all(&[unreadable, out_of_stock(&world, "event-2", "o-2")]).await;
    wait_told(&world, 1).await;
    let letter = dead(&world).await;
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("invalid_message"), &json!(1)));
    assert_eq!(events_told(&server), ["event-2"]);
    world.close_after([notifier]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_that_is_killed_again_and_again_tells_of_every_event() {
    let world = World::new("a_notifier_that_is_killed_again_and_again_tells_of_every_event").await;
    let server = MailServer::start().await;
    let event = |number| out_of_stock(&world, &format!("event-{number}"), &format!("o-{number}"));
    let events: Vec<_> = (0..200).map(event).collect();
    world.sender.publish_all(&events).await;
    let (mut notifier, mut random) = (world.notifier("notifier", &server, &[]), Random::seeded(5));
    while world.count(NOTIFICATIONS_HANDLED).await < 150 {
        // More than it may hold, so that no message is there at each death and can be taken for the cause.
        let more = HELD + 5 + usize::try_from(random.below(15)).unwrap();
        let enough = server.desk().taken.len() + more;
        let sent = async || server.desk().taken.len() >= enough;
        wait_until("mails are sent", DRAINS_WITHIN, sent).await;
        notifier.kill().await;
        notifier = world.notifier("notifier", &server, &[]);
    }
    wait_told(&world, 200).await;

    let mails = server.desk().taken.clone();
    let mut said = BTreeMap::new();
    for mail in &mails {
        let first = said.entry(event_of(mail)).or_insert(mail.text());
        assert_eq!(*first, mail.text(), "a repeat says something else");
    }
    assert_eq!(said.len(), 200);
    for number in 0..200 {
        let (event, line) = (format!("event-{number}"), format!("Order o-{number} waits for 2"));
        assert!(said[&event].contains(&line), "{line} is not what the mail of {event} says");
    }
    println!("{} mails for 200 events", mails.len());
    assert_eq!(world.count(FAILURES).await, 0);
    world.close_after([notifier]).await;
}

/// It is not away, as far as anybody could know: it answers in a minute, or never.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_never_says_a_word_holds_up_neither_orders_nor_stock() {
    let name = "a_mail_server_that_never_says_a_word_holds_up_neither_orders_nor_stock";
    let world = World::new(name).await;
    // The first who calls is let in; the others are as connected, as far as they can see.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let settings = [("ALLOCATION__SMTP__URL", url.as_str()), ("ALLOCATION__WORKER__SHUTDOWN_TIMEOUT", "1s")];
    let process = world.start(&["run", "--only", ROLES], &settings);
    world.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    world.wait_handled(1).await;
    order(&world, 1..=1).await;
    let called = timeout(DRAINS_WITHIN, silent.accept()).await.expect("the mail server is called");
    let (_held, _) = called.unwrap();

    let stock = (2..=26).map(|number| create_batch(&format!("b-{number}"), "VASE", number));
    let orders = (2..=26).map(|number| allocate(&format!("o-{number}"), "LAMP", 2));
    world.sender.send_all(&stock.chain(orders).collect::<Vec<_>>()).await;
    // Sooner than anybody gives up a silent mail server.
    let go_on = async || world.handled().await;
    wait_for("orders and stock go on", Duration::from_secs(10), &52, go_on).await;
    assert_eq!(world.settled(52).await.len(), 26);
    assert_eq!((world.count(NOTIFICATIONS_HANDLED).await, world.count(FAILURES).await), (0, 0));
    world.close_after([process]).await; // the mail in hand is left to redelivery
}

/// A restart is no attempt, and a notification that was in hand at each of them is no culprit.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_while_the_mail_server_is_away_kill_no_notification() {
    let world = World::new("restarts_while_the_mail_server_is_away_kill_no_notification").await;
    let mut server = MailServer::start().await;
    server.stop().await;
    let events = [out_of_stock(&world, "event-1", "o-1"), out_of_stock(&world, "event-2", "o-2")];
    world.sender.publish_all(&events).await;
    // More restarts than starts that would take a message for the cause: the first is no redelivery, then come four.
    for _ in 0..6 {
        let notifier = world.notifier("notifier", &server, HASTY);
        let waits = async || notifier.log().contains("mail server unavailable");
        wait_until("it is noticed that the server is away", DRAINS_WITHIN, waits).await;
        assert!(notifier.terminate().await.success());
        assert_eq!(world.count(STARTS).await, 0, "a start counts once the mail is out");
    }
    assert_eq!((world.count(NOTIFICATIONS_HANDLED).await, world.count(FAILURES).await), (0, 0));

    server.start_again().await;
    let notifier = world.notifier("notifier", &server, HASTY);
    wait_told(&world, 2).await;
    assert_eq!(events_told(&server), ["event-1", "event-2"]);
    assert_eq!((world.count(FAILURES).await, world.count(STARTS).await), (0, 0));
    world.close_after([notifier]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strays_into_the_wrong_queue_is_dead_and_holds_up_nobody() {
    let name = "what_strays_into_the_wrong_queue_is_dead_and_holds_up_nobody";
    let (world, server, process) = nothing_in_stock(name, HASTY).await;
    world.expect_dead(2);
    let body = json!({ "orderid": "o-astray", "sku": "LAMP", "qty": 2 }).to_string().into_bytes();
    let among_orders = world.sender.raw("allocate", properties("out_of_stock", "astray-1"), &body);
    let among_notifications = Raw {
        exchange: String::new(),
        routing_key: world.named("notifications"),
        properties: properties("allocate", "astray-2"),
        body,
    };
    world.sender.publish_all(&[among_orders, among_notifications]).await;
    order(&world, 1..=1).await;
    wait_for("both are dead", DRAINS_WITHIN, &2, async || world.count(DEAD).await).await;
    wait_told(&world, 1).await;
    let events = world.settled(2).await;
    assert_eq!(events_told(&server), ids(&events));
    assert_eq!(world.count("select count(*) from order_lines").await, 1);

    let dead: Vec<(String, String, String, i32)> =
        sqlx::query_as("select queue, type, reason, attempts from failed_messages order by queue")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    let letter =
        |queue: &str, kind: &str| (queue.to_owned(), kind.to_owned(), "unknown_command".to_owned(), 1);
    assert_eq!(dead, [letter("notifications", "allocate"), letter("orders", "out_of_stock")]);
    world.close_after([process]).await;
}

/// Two notifiers and events that come twice: each mail is sent once, for one of them waits until the other is done.
#[tokio::test(flavor = "multi_thread")]
async fn two_notifiers_send_one_mail_for_an_event_that_comes_twice() {
    let world = World::new("two_notifiers_send_one_mail_for_an_event_that_comes_twice").await;
    let server = MailServer::start().await;
    let events: Vec<_> = (0..20)
        .flat_map(|number| {
            let event = out_of_stock(&world, &format!("event-{number:02}"), &format!("o-{number}"));
            [event.clone(), event]
        })
        .collect();
    let notifiers = [world.notifier("notifier", &server, HASTY), world.notifier("notifier", &server, HASTY)];
    world.sender.publish_all(&events).await;
    wait_told(&world, 20).await;
    wait_for("all are taken", DRAINS_WITHIN, &0, async || world.ready("notifications").await).await;
    let expected: Vec<_> = (0..20).map(|number| format!("event-{number:02}")).collect();
    assert_eq!(events_told(&server), expected);
    assert_eq!((world.count(FAILURES).await, world.count(STARTS).await), (0, 0));
    world.close_after(notifiers).await;
}
