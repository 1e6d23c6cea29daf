//! Why an operator action does not apply to a failed message.

/// Why an action does not apply to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// There is no such message.
    #[error("no such failed message")]
    NotFound,
    /// It changed after it was selected.
    #[error("changed meanwhile, no longer matches the filter")]
    NoLongerMatches,
    /// It changed after it was shown to the operator.
    #[error("changed meanwhile; run `show` and edit it again")]
    ChangedSinceShown,
    /// The inbox has it.
    #[error("already handled")]
    AlreadyHandled,
    /// A copy is in the queue, or will be in a moment.
    #[error("retry already scheduled")]
    RetryScheduled,
    /// It is resolved.
    #[error("already resolved")]
    Resolved,
    /// It is discarded.
    #[error("discarded; run `restore` first")]
    Discarded,
    /// It was discarded before.
    #[error("already discarded")]
    AlreadyDiscarded,
    /// Only dead messages can be edited.
    #[error("not dead")]
    NotDead,
    /// It is tried as soon as no earlier message with its line or batch is open.
    #[error("waits for an earlier message with the same line or batch")]
    Waiting,
    /// A retry could undo what a later command did.
    #[error(
        "overtaken: a later command for the same line or batch was handled; --overtaken retries it nevertheless"
    )]
    Overtaken,
    /// Only discarded messages can be restored.
    #[error("not discarded")]
    NotDiscarded,
}
