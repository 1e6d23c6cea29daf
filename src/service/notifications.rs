//! Mail: what it says, and how it stands beside the unit of work that notes it.
//!
//! Mail cannot be taken back, so it goes out before the commit: a process that is killed in between sends it again, under
//! the same id. The row that the unit of work has in the inbox keeps others from sending it meanwhile.

use crate::{
    domain::NotifyOutOfStock,
    ports::{
        error::NotifierError,
        notifier::{Notification, Notifier},
        text::sanitize,
    },
};

use super::{decode::Envelope, failure::Failure, received::ReceivedMessage};

/// Sends what a message asks for, once in this process: a unit of work that is tried again does not send it again.
///
/// # Errors
/// [`NotifierError::Unavailable`] says nothing about the message; any other error is its failure.
pub(super) async fn send(
    notifier: &dyn Notifier,
    received: &ReceivedMessage,
    envelope: &Envelope,
    notification: &NotifyOutOfStock,
) -> Result<(), Failure> {
    if let Some(outcome) = received.notified.get() {
        return outcome.clone();
    }
    let outcome = match notifier.notify(&mail(envelope, notification)).await {
        Err(away @ NotifierError::Unavailable(_)) => return Err(away.into()),
        outcome => outcome.map_err(Failure::from),
    };
    let _ = received.notified.set(outcome.clone());
    outcome
}

fn mail(envelope: &Envelope, notification: &NotifyOutOfStock) -> Notification {
    let NotifyOutOfStock { orderid, sku, qty } = notification;
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
