//! Telling people: what is said, and how it stands beside the unit of work that notes it.
//!
//! Mail cannot be taken back, so it goes out before the commit: a worker that dies in between sends it again, under
//! the same id. No transaction is open meanwhile, and what the inbox knows is not sent at all.

use std::time::Instant;

use crate::{
    domain::{Command, NotifyOutOfStock},
    ports::{
        notifier::{Notice, Notifier, NotifierError},
        queue::QueueName,
        store::{Sight, Store},
    },
};

use super::{
    decode::Envelope,
    incoming::Incoming,
    outage::Away,
    unit_of_work::{UnitOfWork, text},
    verdict::Failure,
};

/// Sends what a message asks for, once in this process.
///
/// # Errors
/// [`Away`]: it is to be tried again when the server is back.
pub(super) async fn send(
    store: &dyn Store,
    notifier: &dyn Notifier,
    queue: QueueName,
    incoming: &Incoming,
) -> Result<(), Away> {
    let Some(notice) = notice(incoming) else { return Ok(()) };
    if incoming.notified.get().is_some() || !is_new(store, queue, incoming).await? {
        return Ok(());
    }
    let begin = Instant::now();
    let outcome = match notifier.notify(&notice).await {
        Err(away @ NotifierError::Away(_)) => return Err(away.into()),
        outcome => outcome.map_err(Failure::from),
    };
    let _ = incoming.notified.set((outcome, begin.elapsed()));
    Ok(())
}

async fn is_new(store: &dyn Store, queue: QueueName, incoming: &Incoming) -> Result<bool, Away> {
    let mut uow = UnitOfWork::begin(store, queue).await?;
    let sights = uow.first_sights(incoming.receipt().map_or(&[], std::slice::from_ref)).await;
    uow.rollback().await;
    Ok(sights?.first() == Some(&Sight::First))
}

/// What a message asks to be said, if it does.
fn notice(incoming: &Incoming) -> Option<Notice> {
    let Envelope { receipt, command, .. } = incoming.decoded.as_ref().ok()?;
    let Command::NotifyOutOfStock(NotifyOutOfStock { orderid, sku, qty }) = command else {
        return None;
    };
    let (orderid, sku) = (text(orderid.as_str()), text(sku.as_str()));
    Some(Notice {
        event_id: receipt.message_id.clone(),
        subject: format!("Out of stock for {sku}"),
        text: format!(
            "Out of stock for {sku}\n\nOrder {orderid} waits for {qty} of it.\n\
             It gets them by itself as soon as stock comes in.\n"
        ),
    })
}
