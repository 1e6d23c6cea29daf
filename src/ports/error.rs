//! Errors of the ports: the variant is the class, the source is the detail.
//!
//! `Display` of an error names its class only. [`error_text`] and [`error_chain`] show the whole chain; they are for
//! logs and operators, never for HTTP clients. Adapters put no password and no message body into a source.

use std::{error::Error, fmt, iter, sync::Arc};

use super::text::sanitize;

/// The detail of an error: the error of a client library, or a text.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Keeps an error with its own sources.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self(Box::<dyn Error + Send + Sync>::from(text).into())
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Why a store did not do an operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or cannot work now. The cause is not the command; whether a commit took place is unknown.
    #[error("database unavailable")]
    Unavailable(#[source] Cause),
    /// It did not answer in time. Either it is unavailable, or the operation was too expensive.
    #[error("database timeout")]
    Timeout(#[source] Cause),
    /// Another transaction conflicts; nothing was changed, and an immediate retry will probably succeed.
    #[error("conflicting transaction")]
    Conflict(#[source] Cause),
    /// A row with this key exists. Another transaction may have created it meanwhile, so that an immediate retry succeeds;
    /// nothing was changed.
    #[error("row exists already")]
    AlreadyExists(#[source] Cause),
    /// Another session holds a lock and did not release it in time; nothing was changed. The session may hold it for long.
    #[error("locked by another session")]
    Locked(#[source] Cause),
    /// It can never store this data; nothing was changed.
    #[error("the database rejected the data")]
    InvalidData(#[source] Cause),
    /// The commit was not answered in time: whether it took place is unknown.
    #[error("commit outcome unknown")]
    CommitUnknown(#[source] Cause),
    /// Any other error; nothing was changed, and a later retry may succeed.
    #[error("the store failed")]
    Failed(#[source] Cause),
}

impl StoreError {
    /// Whether another transaction prevented the operation, which may succeed once that has ended; nothing was changed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Locked(_))
    }

    /// Whether the store may be unavailable, so that the outcome of the operation is unknown.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_) | Self::CommitUnknown(_))
    }
}

/// Why the message broker did not do an operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be reached, did not answer in time, or closed the connection without a reason.
    #[error("broker unavailable")]
    Unavailable(#[source] Cause),
    /// It refused the operation and gave a reason: a missing queue, a missing permission.
    #[error("the broker refused the operation")]
    Rejected(#[source] Cause),
    /// Its URL cannot be used.
    #[error("not an AMQP URL")]
    InvalidUrl(#[source] Cause),
}

/// Why a notification was not delivered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotifierError {
    /// No notification can be delivered now; whether this one was delivered is unknown.
    #[error("notifier unavailable")]
    Unavailable(#[source] Cause),
    /// This notification cannot be delivered now.
    #[error("deferred by the receiver")]
    Deferred(#[source] Cause),
    /// This notification cannot be delivered unless the configuration or the mail changes.
    #[error("rejected by the receiver")]
    Rejected(#[source] Cause),
}

/// The whole chain of an error in one line: for a log field or an operator.
#[must_use]
pub fn error_text(error: &dyn Error) -> String {
    sanitize(&join_chain(error))
}

/// What caused an error, one text per link, outermost cause first; empty if nothing did.
#[must_use]
pub fn error_chain(error: &dyn Error) -> Vec<String> {
    causes(error).map(|cause| sanitize(&cause.to_string())).collect()
}

/// The same as [`error_text`], in its full length. Some libraries repeat a source in the text of its error; such a link is
/// left out.
pub(crate) fn join_chain(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(error.source(), |&cause| cause.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("network error: {0}")]
    struct Repeats(#[source] io::Error);

    fn refused() -> StoreError {
        StoreError::Unavailable(Cause::new(Repeats(io::Error::other("connection\nrefused"))))
    }

    #[test]
    fn a_chain_has_every_link_and_a_text_repeats_none() {
        let links = ["network error: connection\u{fffd}refused", "connection\u{fffd}refused"];
        assert_eq!(error_chain(&refused()), links);
        assert_eq!(error_text(&refused()), "database unavailable: network error: connection\u{fffd}refused");
    }

    #[test]
    fn an_error_without_a_cause_has_an_empty_chain() {
        let lone = io::Error::from(io::ErrorKind::TimedOut);
        assert!(error_chain(&lone).is_empty());
        assert_eq!(error_text(&lone), lone.to_string());
    }

    #[test]
    fn the_text_and_each_link_have_a_limit() {
        let long = StoreError::Failed("x".repeat(1_400_000).into());
        assert_eq!(error_text(&long).chars().count(), 2000);
        assert_eq!(error_chain(&long), ["x".repeat(2000)]);
    }
}
