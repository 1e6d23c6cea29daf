//! Mail: what it says, and how it stands beside the unit of work that notes it.
//!
//! Mail cannot be taken back, so it goes out before the commit: a process that is killed in between sends it again, under
//! the same id. The row that the unit of work has in the inbox keeps others from sending it meanwhile.

use crate::{
    domain::NotifyOutOfStock,
    ports::notifier::{Notice, Notifier, NotifierError},
};

use super::{decode::Envelope, incoming::Incoming, unit_of_work::text, verdict::Failure};

/// Sends what a message asks for, once in this process: a unit of work that is tried again does not send it again.
///
/// # Errors
/// [`NotifierError::Away`] says nothing about the message; any other error is its failure.
pub(super) async fn send(
    notifier: &dyn Notifier,
    incoming: &Incoming,
    envelope: &Envelope,
    notification: &NotifyOutOfStock,
) -> Result<(), Failure> {
    if let Some(outcome) = incoming.notified.get() {
        return outcome.clone();
    }
    let outcome = match notifier.notify(&notice(envelope, notification)).await {
        Err(away @ NotifierError::Away(_)) => return Err(away.into()),
        outcome => outcome.map_err(Failure::from),
    };
    let _ = incoming.notified.set(outcome.clone());
    outcome
}

fn notice(envelope: &Envelope, notification: &NotifyOutOfStock) -> Notice {
    let NotifyOutOfStock { orderid, sku, qty } = notification;
    let (orderid, sku) = (text(orderid.as_str()), text(sku.as_str()));
    Notice {
        event_id: envelope.receipt.message_id.clone(),
        subject: format!("Out of stock for {sku}"),
        text: format!(
            "Out of stock for {sku}\n\nOrder {orderid} waits for {qty} of it.\n\
             It gets them by itself as soon as stock comes in.\n"
        ),
    }
}
