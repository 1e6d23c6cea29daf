//! Several messages in one trial, and the order of commands with one key.

use allocation::{
    domain::OperatorAction,
    service::trial::{TrialOptions, TrialReport, Verdict},
};

use crate::harness::{allocate, create_batch, deallocate};

use super::world::World;

const OPTIONS: TrialOptions = TrialOptions { even_overtaken: false, even_if_it_crashes: false };

fn verdicts(reports: &[TrialReport]) -> Vec<(Verdict, Option<&'static str>)> {
    reports.iter().map(|report| (report.would, report.next)).collect()
}

#[tokio::test]
async fn each_message_sees_the_stock_that_the_earlier_ones_have_left() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(world.dead_command(&allocate(&format!("new-{n}"), "LAMP", 4), "rejected").await);
    }
    let reports = world.tried(&ids, OPTIONS).await;
    assert!(reports.iter().all(|report| report.would == Verdict::Succeed), "{:?}", verdicts(&reports));
    let kinds: Vec<_> = reports.iter().map(|report| report.events[0].kind).collect();
    // 17 of 20 are available.
    assert_eq!(kinds[..4], ["allocated"; 4]);
    assert_eq!(kinds[4..], ["out_of_stock"; 8]);
    assert_eq!(reports[3].batches[0].allocated, [15, 19]);
    let sequences: Vec<_> = reports.iter().map(|report| report.events[0].sequence).collect();
    assert_eq!(sequences, (2..14).collect::<Vec<i64>>());
}

#[tokio::test]
async fn messages_of_several_queues_see_each_other() {
    let world = World::new().await;
    let batch = world.dead_command(&create_batch("new-1", "NEW", 3), "attempts_exhausted").await;
    let line = world.dead_command(&allocate("o", "NEW", 2), "rejected").await;
    let reports = world.tried(&[line, batch], OPTIONS).await;
    assert_eq!(reports.iter().map(|report| report.id).collect::<Vec<_>>(), [batch, line]);
    assert_eq!(verdicts(&reports), [(Verdict::Succeed, None); 2]);
    let alone = world.tried(&[line], OPTIONS).await;
    assert_eq!(verdicts(&alone), [(Verdict::Fail, Some("retrying"))]);
}

/// The database rejects one of them, so that their unit of work fails.
#[tokio::test]
async fn a_message_that_the_database_rejects_is_reported_and_the_others_are_tried() {
    let world = World::new().await;
    world.db.execute("alter table order_lines add constraint no_sofa check (orderid <> 'rejected')").await;
    let mut ids = Vec::new();
    for order in ["a", "rejected", "b"] {
        ids.push(world.dead_command(&allocate(order, "LAMP", 8), "rejected").await);
    }
    let reports = world.tried(&ids, OPTIONS).await;
    let expected =
        [(Verdict::Succeed, None), (Verdict::Fail, Some("invalid_message")), (Verdict::Succeed, None)];
    assert_eq!(verdicts(&reports), expected);
    assert!(reports[1].error.as_deref().unwrap().contains("no_sofa"), "{:?}", reports[1]);
    assert_eq!(reports[2].batches[0].allocated, [11, 19]);
    world.retried(&ids, OperatorAction::Retry).await;
    let dead = world.db.count("select count(*) from failed_messages where reason = 'invalid_message'").await;
    assert_eq!(dead, 1);
}

/// A constraint that is checked at the commit.
#[tokio::test]
async fn a_deferred_constraint_is_checked() {
    let world = World::new().await;
    world
        .db
        .execute(
            "create function refuse() returns trigger language plpgsql as
                 $$ begin raise exception 'refused at the commit' using errcode = '23514'; end $$;
             create constraint trigger refuse after insert on order_lines deferrable initially deferred
                 for each row when (new.orderid = 'late') execute function refuse()",
        )
        .await;
    let late = world.dead_command(&allocate("late", "LAMP", 1), "rejected").await;
    let fine = world.dead_command(&allocate("fine", "LAMP", 1), "rejected").await;
    let reports = world.tried(&[late, fine], OPTIONS).await;
    assert_eq!(verdicts(&reports), [(Verdict::Fail, Some("invalid_message")), (Verdict::Succeed, None)]);
    assert!(reports[0].error.as_deref().unwrap().contains("refused at the commit"), "{:?}", reports[0]);
}

#[tokio::test]
async fn a_message_behind_another_one_would_wait() {
    let world = World::new().await;
    let first = world.dead_command(&allocate("o", "LAMP", 2), "rejected").await;
    let second = world.dead_command(&deallocate("o", "LAMP"), "rejected").await;
    let retrying = "status = 'retrying', reason = null, due_at = now() + interval '1 hour'";
    world.db.execute(&format!("update failed_messages set {retrying} where id = {first}")).await;
    let report = world.tried(&[second], OPTIONS).await.remove(0);
    assert_eq!((report.would, report.next), (Verdict::Wait, Some("waiting")));
    assert!(report.error.unwrap().contains(&format!("waits for message {first}")));
    let waiting = "status = 'waiting', reason = null";
    world.db.execute(&format!("update failed_messages set {waiting} where id = {second}")).await;
    let reports = world.tried(&[first, second], OPTIONS).await;
    assert_eq!(verdicts(&reports), [(Verdict::Succeed, None), (Verdict::Wait, Some("waiting"))]);
}

/// If the first one fails again, the second one waits for it.
#[tokio::test]
async fn messages_with_one_key_are_tried_in_their_order() {
    let world = World::new().await;
    let fails = world.dead_command(&allocate("old", "LAMP", 9), "rejected").await;
    let waits = world.dead_command(&deallocate("old", "LAMP"), "rejected").await;
    let expected = [(Verdict::Fail, Some("retrying")), (Verdict::Wait, Some("waiting"))];
    assert_eq!(verdicts(&world.tried(&[fails, waits], OPTIONS).await), expected);
    let alone = world.tried(&[waits], OPTIONS).await.remove(0);
    assert_eq!(alone.would, Verdict::Succeed);
    assert!(alone.caveats[0].starts_with(&format!("message {fails}, an earlier one")), "{:?}", alone.caveats);
    let outcomes = world.retried(&[fails, waits], OperatorAction::Retry).await;
    assert_eq!(outcomes.len(), 2);
    let statuses = "select string_agg(status, ' ' order by id) from failed_messages";
    assert_eq!(world.db.text(statuses).await, "retrying waiting");
}

#[tokio::test]
async fn an_overtaken_message_is_tried_only_on_request() {
    let world = World::new().await;
    let id = world.dead_command(&allocate("o", "LAMP", 2), "rejected").await;
    world.handle(&deallocate("o", "LAMP").with_id("the cancellation")).await;
    world.db.execute("delete from outbox").await;
    let report = world.tried(&[id], OPTIONS).await.remove(0);
    assert_eq!(report.would, Verdict::Skip);
    assert!(report.error.unwrap().contains("overtaken by the cancellation"));
    assert!(world.retried(&[id], OperatorAction::Retry).await.is_empty());
    let requested = TrialOptions { even_overtaken: true, ..OPTIONS };
    assert_eq!(world.tried(&[id], requested).await[0].would, Verdict::Succeed);
    let outcomes = world.retried(&[id], OperatorAction::RetryOvertaken).await;
    assert!(matches!(outcomes[&id], allocation::service::outcome::CommandOutcome::Handled));
}

#[tokio::test]
async fn a_message_that_crashed_its_worker_is_tried_only_on_request() {
    let world = World::new().await;
    let id = world.dead_command(&allocate("o", "LAMP", 2), "crash_loop").await;
    let report = world.tried(&[id], OPTIONS).await.remove(0);
    assert_eq!(report.would, Verdict::Skip);
    assert!(report.error.unwrap().contains("--even-if-it-crashes"));
    let requested = TrialOptions { even_if_it_crashes: true, ..OPTIONS };
    assert_eq!(world.tried(&[id], requested).await[0].would, Verdict::Succeed);
}

#[tokio::test]
async fn a_message_that_is_not_dead_is_tried_or_the_reason_is_reported() {
    let world = World::new().await;
    let id = world.dead_command(&allocate("o", "LAMP", 2), "rejected").await;
    for (columns, would) in [
        ("status = 'retrying', reason = null, due_at = now() + interval '1 hour'", Verdict::Succeed),
        ("status = 'retrying', reason = null, due_at = now(), published_at = now()", Verdict::Succeed),
        ("status = 'discarded', reason = 'rejected', due_at = null", Verdict::Skip),
        ("status = 'resolved', reason = null, due_at = null", Verdict::Skip),
    ] {
        world.db.execute(&format!("update failed_messages set {columns} where id = {id}")).await;
        let reports = world.tried(&[id], OPTIONS).await;
        assert_eq!(reports[0].would, would, "{columns}");
        let on_its_way = columns.contains("published_at");
        assert_eq!(!reports[0].caveats.is_empty(), on_its_way, "{:?}", reports[0].caveats);
    }
    assert!(world.tried(&[id + 1000], OPTIONS).await.is_empty(), "there is no such message");
}
