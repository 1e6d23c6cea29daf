//! Notifications without a mail server: log lines by default, files with `file:DIR`.

use crate::harness::{DRAINS_WITHIN, TestSystem, allocate, create_batch, wait_for};

const ROLES: &str = "worker,relay,notifier";
const NOTIFIED: &str = "select count(*) from inbox where queue = 'notifications'";

/// Orders of a product that is out of stock, until their notifications are handled.
async fn three_backorders(system: &TestSystem) {
    system.sender.send(&create_batch("b-1", "LAMP", 0)).await;
    system.wait_handled(1).await;
    let lines: Vec<_> = (1..=3).map(|number| allocate(&format!("o-{number}"), "LAMP", 2)).collect();
    system.sender.send_all(&lines).await;
    system.settled(4).await;
    wait_for("notifications are handled", DRAINS_WITHIN, &3, async || system.count(NOTIFIED).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_each_notification_is_a_log_line() {
    let system = TestSystem::new("without_a_mail_server_each_notification_is_a_log_line").await;
    let process = system.start(&["run", "--only", ROLES], &[]);
    three_backorders(&system).await;
    let log = process.log();
    assert_eq!(log.matches("smtp.url is empty").count(), 1, "{log}");
    assert_eq!(log.matches("Out of stock for LAMP").count(), 3, "{log}");
    system.close_after([process]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_receives_one_file_for_each_notification() {
    let system = TestSystem::new("a_directory_receives_one_file_for_each_notification").await;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let process = system.start(&["run", "--only", ROLES], &[("ALLOCATION__SMTP__URL", &url)]);
    three_backorders(&system).await;
    let mails: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(mails.len(), 3, "{mails:?}");
    assert!(mails.iter().all(|mail| mail.contains("Subject: Out of stock for LAMP")), "{mails:?}");
    system.close_after([process]).await;
}
