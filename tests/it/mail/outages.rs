//! Notifications while the mail server is unavailable, and after kills and restarts of the notifier.

use std::{collections::BTreeMap, time::Duration};

use tokio::{net::TcpListener, time::timeout};

use crate::harness::{
    DRAINS_WITHIN, MailServer, Random, TestSystem, allocate, create_batch, wait_for, wait_until,
};

use super::{
    FAILURES, NOTIFICATIONS_HANDLED, ONE_RETRY, ROLES, STARTS, event_of, ids, mailed_events,
    nothing_in_stock, order, out_of_stock, wait_notified,
};

/// The prefetch of a notifier.
const PREFETCH: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_mail_server_loses_nothing_and_counts_no_attempt() {
    let name = "an_outage_of_the_mail_server_loses_nothing_and_counts_no_attempt";
    let (system, mut server, process) = nothing_in_stock(name, ONE_RETRY).await;
    order(&system, 1..=1).await;
    wait_notified(&system, 1).await;
    server.stop().await;
    order(&system, 2..=4).await;
    let logged = async || process.log().contains("mail server unavailable");
    wait_until("the outage is logged", DRAINS_WITHIN, logged).await;
    let events = system.settled(5).await; // orders are not affected
    assert_eq!(system.count(NOTIFICATIONS_HANDLED).await, 1);

    server.restart().await;
    wait_notified(&system, 4).await;
    let logged = async || process.log().contains("mail server available again");
    wait_until("the end of the outage is logged", DRAINS_WITHIN, logged).await;
    assert_eq!(mailed_events(&server), ids(&events));
    assert_eq!(system.count(FAILURES).await, 0);
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_kills_of_a_notifier_lose_no_mail() {
    let system = TestSystem::new("repeated_kills_of_a_notifier_lose_no_mail").await;
    let server = MailServer::start().await;
    let event = |number| out_of_stock(&system, &format!("event-{number}"), &format!("o-{number}"));
    let events: Vec<_> = (0..200).map(event).collect();
    system.sender.publish_all(&events).await;
    let (mut notifier, mut random) = (system.notifier("notifier", &server, &[]), Random::seeded(5));
    while system.count(NOTIFICATIONS_HANDLED).await < 150 {
        // More than the prefetch, so that no message is in flight at every kill and counts as their cause.
        let more = PREFETCH + 5 + usize::try_from(random.below(15)).unwrap();
        let enough = server.script().accepted.len() + more;
        let sent = async || server.script().accepted.len() >= enough;
        wait_until("mails are sent", DRAINS_WITHIN, sent).await;
        notifier.kill().await;
        notifier = system.notifier("notifier", &server, &[]);
    }
    wait_notified(&system, 200).await;

    let mails = server.script().accepted.clone();
    let mut texts = BTreeMap::new();
    for mail in &mails {
        let first = texts.entry(event_of(mail)).or_insert(mail.text());
        assert_eq!(*first, mail.text(), "a repeated mail has another text");
    }
    assert_eq!(texts.len(), 200);
    for number in 0..200 {
        let (event, line) = (format!("event-{number}"), format!("Order o-{number} waits for 2"));
        assert!(texts[&event].contains(&line), "the mail of {event} does not contain {line}");
    }
    println!("{} mails for 200 events", mails.len());
    assert_eq!(system.count(FAILURES).await, 0);
    system.close_after([notifier]).await;
}

/// The server accepts the connection and never replies.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_mail_server_blocks_neither_orders_nor_stock() {
    let name = "a_silent_mail_server_blocks_neither_orders_nor_stock";
    let system = TestSystem::new(name).await;
    // Only the first connection is accepted; the others are in the backlog of the listener.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let settings = [("ALLOCATION__SMTP__URL", url.as_str()), ("ALLOCATION__WORKER__SHUTDOWN_TIMEOUT", "1s")];
    let process = system.start(&["run", "--only", ROLES], &settings);
    system.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    system.wait_handled(1).await;
    order(&system, 1..=1).await;
    let accepted = timeout(DRAINS_WITHIN, silent.accept()).await.expect("the notifier connects");
    let (_connection, _) = accepted.unwrap();

    let stock = (2..=26).map(|number| create_batch(&format!("b-{number}"), "VASE", number));
    let orders = (2..=26).map(|number| allocate(&format!("o-{number}"), "LAMP", 2));
    system.sender.send_all(&stock.chain(orders).collect::<Vec<_>>()).await;
    // Sooner than the notifier gives up a silent mail server.
    let handled = async || system.handled().await;
    wait_for("orders and stock are handled", Duration::from_secs(10), &52, handled).await;
    assert_eq!(system.settled(52).await.len(), 26);
    assert_eq!((system.count(NOTIFICATIONS_HANDLED).await, system.count(FAILURES).await), (0, 0));
    system.close_after([process]).await; // the current notification is redelivered
}

/// A restart is no attempt, and does not count as a crash of the notifications in flight.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_during_an_outage_of_the_mail_server_dead_letter_no_notification() {
    let system =
        TestSystem::new("restarts_during_an_outage_of_the_mail_server_dead_letter_no_notification").await;
    let mut server = MailServer::start().await;
    server.stop().await;
    let events = [out_of_stock(&system, "event-1", "o-1"), out_of_stock(&system, "event-2", "o-2")];
    system.sender.publish_all(&events).await;
    // More restarts than starts after which a message is dead: the first is no redelivery, then four.
    for _ in 0..6 {
        let notifier = system.notifier("notifier", &server, ONE_RETRY);
        let waits = async || notifier.log().contains("mail server unavailable");
        wait_until("the outage is logged", DRAINS_WITHIN, waits).await;
        assert!(notifier.terminate().await.success());
        assert_eq!(system.count(STARTS).await, 0, "a start is counted when the mail is sent");
    }
    assert_eq!((system.count(NOTIFICATIONS_HANDLED).await, system.count(FAILURES).await), (0, 0));

    server.restart().await;
    let notifier = system.notifier("notifier", &server, ONE_RETRY);
    wait_notified(&system, 2).await;
    assert_eq!(mailed_events(&server), ["event-1", "event-2"]);
    assert_eq!((system.count(FAILURES).await, system.count(STARTS).await), (0, 0));
    system.close_after([notifier]).await;
}
