//! Servers and subscribers.

use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::{
    harness::allocate,
    ops::stage::{STOCK, Stage},
};

/// Messages are held, and no relay is the leader: the cause alone is reported.
pub(super) async fn database(name: &str) {
    let stage = Stage::new(name, &[]).await;
    stage.database.refuse(true);
    stage.database.cut();
    stage.system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    stage.fires(&["ServerUnavailable database"]).await;
    stage.database.refuse(false);
    stage.ends(2).await;
}

/// A command over HTTP causes an event that cannot be published.
pub(super) async fn broker(name: &str) {
    let stage = Stage::new(name, &[]).await;
    stage.broker.refuse(true);
    stage.broker.cut();
    let line = json!({"orderid": "o-1", "sku": "LAMP", "qty": 1});
    stage.api.post("/allocate", &line).await.expect_status(202);
    stage.fires(&["OutboxOld", "ServerUnavailable broker"]).await;
    stage.broker.refuse(false);
    stage.ends(2).await;
}

async fn out_of_stock(stage: &Stage) {
    stage.system.sender.send(&allocate("o-1", "LAMP", STOCK + 1)).await;
}

pub(super) async fn mail(name: &str) {
    let stage = Stage::new(name, &[]).await;
    stage.mail.refuse(true);
    stage.mail.cut();
    out_of_stock(&stage).await;
    stage.fires(&["ServerUnavailable mail"]).await;
    stage.mail.refuse(false);
    stage.ends(2).await;
}

/// The mail server accepts connections and does not answer: the notification stays in progress.
pub(super) async fn silent_mail(name: &str) {
    let stage = Stage::new(name, &[]).await;
    stage.mail.freeze();
    out_of_stock(&stage).await;
    stage.fires(&["StalledHandler notifications"]).await;
    stage.mail.thaw();
    stage.ends(2).await;
}

/// The queue of a subscriber is full, and rejects events.
pub(super) async fn full_subscriber(name: &str) {
    let stage = Stage::new(name, &[]).await;
    let full = stage.system.named("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = stage.system.channel();
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare(full.as_str().into(), durable, arguments).await.unwrap();
    let (events, bind) = (stage.system.named("events"), QueueBindOptions::default());
    let key = "allocated".into();
    channel.queue_bind(full.as_str().into(), events.into(), key, bind, FieldTable::default()).await.unwrap();
    let lines: Vec<_> = (0..10).map(|number| allocate(&format!("o-{number}"), "LAMP", 1)).collect();
    stage.system.sender.send_all(&lines).await;
    stage.fires(&["OutboxOld"]).await;
    channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    stage.ends(11).await;
}

/// No queue is bound to the events.
pub(super) async fn no_subscriber(name: &str) {
    let stage = Stage::new(name, &[]).await;
    let observer = stage.system.named("observer");
    stage.system.channel().queue_delete(observer.into(), QueueDeleteOptions::default()).await.unwrap();
    stage.system.sender.send(&allocate("o-1", "LAMP", 1)).await;
    stage.fires(&["EventsUnroutable"]).await;
    stage.ends(2).await;
}
