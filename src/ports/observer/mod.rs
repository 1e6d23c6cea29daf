//! How this process is observed: every part reports what it did, and adapters turn the reports into metrics and traces.
//!
//! A report is made once per unit of work, publication or request, after it. It borrows what it says, and contains enums,
//! numbers, ids and trace contexts only: never a body, a header value or a secret.

mod gauges;
mod message;
mod observers;
mod period;
mod process;
mod publication;
mod spans;

pub use gauges::{
    Backlog, BacklogReader, Exposition, FailedMessageCount, GaugedQueueKind, QueueActivity, QueueReader,
    QueueState,
};
pub use message::{
    ErrorClass, FailureReport, MessageOutcome, MessageReport, Source, UnitOfWorkReport, UnitOfWorkResult,
};
pub use observers::{NoObserver, Observer, Observers, Report};
pub use period::{Period, Stopwatch};
pub use process::{
    AvailabilityReport, LeadershipChange, Listener, RequestReport, SchemaReport, Server, SubscriptionChange,
    SubscriptionReport,
};
pub use publication::{
    EventsPublished, NotificationOutcome, PublicationOutcome, PublishedEvent, PublishedRetry, PurgedRows,
    RetriesPublished,
};
pub use spans::{SpanDecision, SpanOutcome};
