//! What this process knows about locks of other sessions, so that it does not wait for the same lock again and again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::domain::Command;

use super::{envelope::Content, received::ReceivedMessage};

/// How long a lock is remembered after it was met.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// What another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockedRow {
    /// A product, which need not be awaited to know that it is locked.
    Product,
    /// Any other row.
    Other,
}

/// The SKUs and batches of messages that needed a locked row.
#[derive(Debug, Default)]
pub(super) struct Contention {
    keys: Mutex<HashMap<String, (Instant, LockedRow)>>,
}

impl Contention {
    /// A message needs a row that is locked.
    pub(super) fn met(&self, received: &ReceivedMessage, row: LockedRow) {
        let now = Instant::now();
        let mut keys = self.keys();
        keys.retain(|_, (met, _)| now - *met < REMEMBERED_FOR);
        let key = needed_row(received);
        if keys.insert(key.to_owned(), (now, row)).is_none() {
            warn!(key, "another session has locked rows; the commands that need them are postponed");
        }
    }

    /// A message could be handled.
    pub(super) fn over(&self, received: &ReceivedMessage) {
        let mut keys = self.keys();
        if !keys.is_empty() {
            let key = needed_row(received);
            if keys.remove(key).is_some() {
                info!(key, "rows that another session had locked are free");
            }
        }
    }

    /// What messages that need the same rows found locked lately.
    pub(super) fn lately(&self, received: &ReceivedMessage) -> Option<LockedRow> {
        let keys = self.keys();
        if keys.is_empty() {
            return None;
        }
        keys.get(needed_row(received)).filter(|(met, _)| met.elapsed() < REMEMBERED_FOR).map(|(_, row)| *row)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, (Instant, LockedRow)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The SKU or the batch whose rows a message needs.
fn needed_row(received: &ReceivedMessage) -> &str {
    match received.decoded.as_ref().map(|envelope| &envelope.content) {
        // The batch does not exist yet.
        Ok(Content::Command(Command::CreateBatch(command))) => command.sku.as_str(),
        Ok(content) => content.partition_key(),
        Err(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::{queue::Message, routing},
        service::decode::Limits,
    };

    fn received(kind: &str, body: &str) -> ReceivedMessage {
        let message = Message {
            kind: kind.into(),
            message_id: Some("m".into()),
            body: body.as_bytes().into(),
            ..Message::default()
        };
        let limits = Limits { body_bytes: 1000, header_bytes: 1000 };
        ReceivedMessage::read(routing::queue_of(kind).unwrap(), message, false, limits)
    }

    fn line(sku: &str) -> ReceivedMessage {
        received("allocate", &format!(r#"{{"orderid": "o", "sku": "{sku}", "qty": 1}}"#))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_remembered_for_its_product_until_it_is_over_or_old() {
        let contention = Contention::default();
        let batch = received("create_batch", r#"{"ref": "b", "sku": "LAMP", "qty": 1, "eta": null}"#);
        contention.met(&line("LAMP"), LockedRow::Product);
        contention.met(&line("VASE"), LockedRow::Other);
        assert_eq!(contention.lately(&batch), Some(LockedRow::Product), "its batch needs the product");
        assert_eq!(contention.lately(&line("VASE")), Some(LockedRow::Other));
        assert_eq!(contention.lately(&line("SOFA")), None);
        contention.over(&line("VASE"));
        assert_eq!(contention.lately(&line("VASE")), None);
        assert_eq!(contention.lately(&line("LAMP")), Some(LockedRow::Product));
        tokio::time::advance(REMEMBERED_FOR).await;
        assert_eq!(contention.lately(&line("LAMP")), None);
        contention.met(&line("SOFA"), LockedRow::Product);
        assert_eq!(contention.keys().len(), 1, "what is old is forgotten");
        tokio::time::advance(REMEMBERED_FOR / 2).await;
        contention.met(&line("RUG"), LockedRow::Product);
        assert_eq!(contention.keys().len(), 2, "what is not is kept");
    }
}
