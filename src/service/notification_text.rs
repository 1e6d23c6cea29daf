//! The text of notifications.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::ports::{notifier::Notification, text::sanitize};

use super::envelope::{Envelope, OutOfStockNotification};

/// An event that a notification is about.
pub(super) type NotifiedEvent<'a> = (&'a Envelope, &'a OutOfStockNotification);

/// One notification about these events; `None` without events.
pub(super) fn notification(events: &[NotifiedEvent<'_>]) -> Option<Notification> {
    match events {
        [] => None,
        [(envelope, event)] => Some(single(envelope, event)),
        events => Some(digest(events)),
    }
}

fn single(
    envelope: &Envelope,
    OutOfStockNotification { orderid, sku, qty }: &OutOfStockNotification,
) -> Notification {
    let (orderid, sku) = (sanitize(orderid.as_str()), sanitize(sku.as_str()));
    Notification {
        event_id: envelope.key.message_id.clone(),
        subject: format!("Out of stock for {sku}"),
        text: format!(
            "Out of stock for {sku}\n\nOrder {orderid} waits for {qty} of it.\n\
             It gets them by itself as soon as stock comes in.\n"
        ),
    }
}

/// Its id is made of the ids of its events, so that a duplicate has the same one.
fn digest(events: &[NotifiedEvent<'_>]) -> Notification {
    let ids: Vec<_> = events.iter().map(|(envelope, _)| &*envelope.key.message_id).collect();
    let skus: BTreeSet<_> = events.iter().map(|(_, event)| event.sku.as_str()).collect();
    let mut text = String::from(
        "These order lines wait for stock. They get it by themselves as soon as it comes in.\n\n",
    );
    for (_, OutOfStockNotification { orderid, sku, qty }) in events {
        let (orderid, sku) = (sanitize(orderid.as_str()), sanitize(sku.as_str()));
        let _ = writeln!(text, "{sku}: order {orderid} waits for {qty}");
    }
    let products = if skus.len() == 1 { "1 product".to_owned() } else { format!("{} products", skus.len()) };
    Notification {
        event_id: ids.join(",").into(),
        subject: format!("Out of stock: {} order lines of {products}", events.len()),
        text,
    }
}
