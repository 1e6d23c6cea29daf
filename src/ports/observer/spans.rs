//! Spans: whether one is recorded, and what became of it.

use crate::{domain::named_values, ports::trace::TraceContext};

/// Whether the span of some work is recorded. Decided when the work begins, since what follows from it names the span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanDecision {
    /// It is not.
    #[default]
    NotRecorded,
    /// Only if the work fails or takes long: then it is the root of a trace of its own.
    IfFailed(TraceContext),
    /// It is.
    Recorded(TraceContext),
}

impl SpanDecision {
    /// The context of the span, if it is recorded in any case.
    #[must_use]
    pub fn recorded(self) -> Option<TraceContext> {
        match self {
            Self::Recorded(context) => Some(context),
            Self::IfFailed(_) | Self::NotRecorded => None,
        }
    }

    /// The context of the span of work that has failed, if it is recorded.
    #[must_use]
    pub fn of_failure(self) -> Option<TraceContext> {
        match self {
            Self::Recorded(context) | Self::IfFailed(context) => Some(context),
            Self::NotRecorded => None,
        }
    }
}

named_values! {
    /// What became of a span.
    SpanOutcome {
        /// The collector has it.
        Exported = "exported",
        /// There was no room for it, or no time at the stop.
        Dropped = "dropped",
        /// The collector rejected it, or did not take it after several tries.
        Failed = "failed",
    }
}
