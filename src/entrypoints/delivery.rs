//! A delivery on its way through a partition.

use crate::service::received::ReceivedMessage;

/// A delivery, decoded.
pub(super) struct PendingDelivery {
    pub(super) tag: u64,
    pub(super) received: ReceivedMessage,
}
