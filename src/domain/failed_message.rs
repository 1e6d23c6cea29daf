//! The life of a failed message: its statuses, and which attempt or operator action leads from one to the next.
//!
//! Stores write the [`Transition`]s that are decided here, and decide nothing themselves.

use super::{
    attempt::{NewAttempt, Reason, RetryDecision},
    message::BodyHash,
    names::named_values,
    ordering_key::OrderingKey,
    skip_reason::SkipReason,
};

named_values! {
    /// A status without its reason.
    StatusKind {
        /// Another attempt is scheduled.
        Retrying = "retrying",
        /// It is attempted after the earlier messages with its key.
        Waiting = "waiting",
        /// It was handled after all.
        Resolved = "resolved",
        /// No attempt is scheduled.
        Dead = "dead",
        /// An operator decided that it is not to be retried.
        Discarded = "discarded",
    }
}

/// The status of a failed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Another attempt is scheduled.
    Retrying,
    /// It is attempted after the earlier messages with its key.
    Waiting,
    /// It was handled after all.
    Resolved,
    /// No attempt is scheduled, for this reason.
    Dead(Reason),
    /// An operator discarded it when it was dead for this reason.
    Discarded(Reason),
}

impl Status {
    /// The status of these parts; none if it lacks its reason.
    #[must_use]
    pub fn new(kind: StatusKind, reason: Option<Reason>) -> Option<Self> {
        match kind {
            StatusKind::Retrying => Some(Self::Retrying),
            StatusKind::Waiting => Some(Self::Waiting),
            StatusKind::Resolved => Some(Self::Resolved),
            StatusKind::Dead => reason.map(Self::Dead),
            StatusKind::Discarded => reason.map(Self::Discarded),
        }
    }

    /// The status without its reason.
    #[must_use]
    pub fn kind(self) -> StatusKind {
        match self {
            Self::Retrying => StatusKind::Retrying,
            Self::Waiting => StatusKind::Waiting,
            Self::Resolved => StatusKind::Resolved,
            Self::Dead(_) => StatusKind::Dead,
            Self::Discarded(_) => StatusKind::Discarded,
        }
    }

    /// Why it is, or was, dead.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Dead(reason) | Self::Discarded(reason) => Some(reason),
            Self::Retrying | Self::Waiting | Self::Resolved => None,
        }
    }

    /// Whether it is handled without an operator: later messages with its key wait.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Retrying | Self::Waiting)
    }
}

impl From<RetryDecision> for Status {
    fn from(decision: RetryDecision) -> Self {
        match decision {
            RetryDecision::Retry(_) | RetryDecision::Postpone(_) => Self::Retrying,
            RetryDecision::Dead(reason) => Self::Dead(reason),
            RetryDecision::Wait => Self::Waiting,
        }
    }
}

/// The content that replaces that of a dead message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The generation that the operator saw. The edit is skipped if another operator or attempt was faster.
    pub shown_generation: i64,
    /// The new type.
    pub kind: String,
    /// The new message id.
    pub message_id: String,
    /// The new body.
    pub body: Vec<u8>,
    /// The hash of the new body.
    pub body_hash: BodyHash,
    /// The line or the batch that the new content is about; none if it is a notification.
    pub ordering_key: Option<OrderingKey>,
    /// Whether the message is retried although a later command with its key was handled.
    pub even_overtaken: bool,
}

/// What an operator does with a failed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Retries a dead message from attempt 1, or a retrying one without further delay. A dead message is skipped if a later
    /// command with its key was handled.
    Retry,
    /// The same, even if a later command with its key was handled.
    RetryOvertaken,
    /// Decides that a message is not to be tried any more.
    Discard,
    /// Undoes a discard.
    Restore,
    /// Replaces the content of a dead message, and retries it.
    Edit(Edit),
}

impl OperatorAction {
    /// The public name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryOvertaken => "retry --overtaken",
            Self::Discard => "discard",
            Self::Restore => "restore",
            Self::Edit(_) => "edit",
        }
    }

    /// The content that replaces that of the message.
    #[must_use]
    pub fn new_content(&self) -> Option<&Edit> {
        match self {
            Self::Edit(edit) => Some(edit),
            Self::Retry | Self::RetryOvertaken | Self::Discard | Self::Restore => None,
        }
    }
}

/// The state of a failed message after an action or an attempt, for a store to write.
///
/// A retrying message is due at once after an action, and after its delay after an attempt; no copy of it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The message.
    pub id: i64,
    /// Its status.
    pub status: Status,
    /// The attempts that are counted.
    pub attempts: u32,
    /// The generation of its current copy.
    pub generation: i64,
}

/// A failed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedMessage {
    /// Its id, unique in its store.
    pub id: i64,
    /// Its status.
    pub status: Status,
    /// The attempts that are counted.
    pub attempts: u32,
    /// Goes up with every attempt and every retry. Copies of earlier generations are outdated.
    pub generation: i64,
    /// Whether the inbox has this message: another copy of it was handled.
    pub handled: bool,
    /// Whether a later command with its key was handled.
    pub overtaken: bool,
    /// Whether a copy was published within the last minute, or is due since then. An older copy may have been lost
    /// with its queue; another one does no harm.
    pub scheduled_recently: bool,
}

impl FailedMessage {
    /// The failed message that a first attempt creates.
    #[must_use]
    pub fn new(id: i64, attempt: &NewAttempt) -> Self {
        Self {
            id,
            status: attempt.next.into(),
            attempts: attempt.attempts,
            generation: 1,
            handled: false,
            overtaken: attempt.overtaken_by.is_some(),
            scheduled_recently: false,
        }
    }

    /// Does what an operator requests.
    ///
    /// # Errors
    /// The action does not apply in this state; the message is unchanged.
    pub fn apply(&mut self, action: &OperatorAction) -> Result<Transition, SkipReason> {
        match action {
            OperatorAction::Retry => self.retry(false),
            OperatorAction::RetryOvertaken => self.retry(true),
            OperatorAction::Discard => self.discard(),
            OperatorAction::Restore => match self.status {
                Status::Discarded(reason) => Ok(self.become_status(Status::Dead(reason))),
                _ => Err(SkipReason::NotDiscarded),
            },
            OperatorAction::Edit(edit) => self.edit(edit),
        }
    }

    fn retry(&mut self, even_overtaken: bool) -> Result<Transition, SkipReason> {
        match self.status {
            _ if self.handled => Err(SkipReason::AlreadyHandled),
            Status::Retrying if self.scheduled_recently => Err(SkipReason::RetryScheduled),
            Status::Retrying => Ok(self.become_status(Status::Retrying)),
            Status::Waiting => Err(SkipReason::Waiting),
            Status::Dead(_) if self.overtaken && !even_overtaken => Err(SkipReason::Overtaken),
            Status::Dead(_) => Ok(self.restart()),
            Status::Discarded(_) => Err(SkipReason::Discarded),
            Status::Resolved => Err(SkipReason::Resolved),
        }
    }

    /// A message that is discarded before its last attempt was not dead, and has a reason of its own.
    fn discard(&mut self) -> Result<Transition, SkipReason> {
        match self.status {
            Status::Dead(reason) => Ok(self.become_status(Status::Discarded(reason))),
            Status::Retrying | Status::Waiting if self.handled => Err(SkipReason::AlreadyHandled),
            Status::Retrying | Status::Waiting => {
                Ok(self.become_status(Status::Discarded(Reason::Discarded)))
            }
            Status::Discarded(_) => Err(SkipReason::AlreadyDiscarded),
            Status::Resolved => Err(SkipReason::Resolved),
        }
    }

    fn edit(&mut self, edit: &Edit) -> Result<Transition, SkipReason> {
        match self.status {
            Status::Dead(_) if edit.shown_generation != self.generation => Err(SkipReason::ChangedSinceShown),
            Status::Dead(_) if self.overtaken && !edit.even_overtaken => Err(SkipReason::Overtaken),
            Status::Dead(_) => {
                self.handled = false; // It is another message from now on.
                Ok(self.restart())
            }
            _ => Err(SkipReason::NotDead),
        }
    }

    /// Tries a message that waits: no earlier message with its key is open. None if it does not wait.
    pub fn release(&mut self) -> Option<Transition> {
        (self.status == Status::Waiting).then(|| {
            self.generation += 1;
            self.become_status(Status::Retrying)
        })
    }

    /// What a skipped action changes: a message that was handled is resolved, unless it is discarded. A skipped edit
    /// changes nothing, because the operator may edit the message again.
    pub fn resolve_skipped(&mut self, action: &OperatorAction) -> Option<Transition> {
        let is_edit = matches!(action, OperatorAction::Edit(_));
        let is_unresolved = self.status.is_open() || matches!(self.status, Status::Dead(_));
        if self.handled && is_unresolved && !is_edit { self.resolve() } else { None }
    }

    /// Records a failed attempt; none if it is recorded already.
    ///
    /// A copy counts if it is the current one. A message from a sender counts unless the failed message is open: a
    /// redelivery cannot be distinguished from a message that was sent again, and an attempt that is counted twice is
    /// better than a lost message.
    pub fn record(&mut self, attempt: &NewAttempt) -> Option<Transition> {
        let is_retrying = self.status == Status::Retrying;
        let counts = match attempt.generation {
            0 => !self.status.is_open(),
            generation => is_retrying && generation == self.generation,
        };
        counts.then(|| {
            self.attempts = attempt.attempts;
            self.generation += 1;
            // A new arrival of the message is later than what overtook the former one.
            self.overtaken = attempt.overtaken_by.is_some() || (self.overtaken && attempt.generation > 0);
            self.become_status(attempt.next.into())
        })
    }

    /// Notes that the message was handled; none if it is resolved already. A discarded one is resolved, too: its sender
    /// sent it again.
    pub fn resolve(&mut self) -> Option<Transition> {
        (self.status != Status::Resolved).then(|| self.become_status(Status::Resolved))
    }

    /// Notes that the broker rejected a copy of this generation; none if the copy is outdated.
    pub fn reject(&mut self, generation: i64) -> Option<Transition> {
        let is_current = self.status == Status::Retrying && generation == self.generation;
        is_current.then(|| self.become_status(Status::Dead(Reason::InvalidMessage)))
    }

    /// Attempts begin with 1 again, and earlier copies are outdated.
    fn restart(&mut self) -> Transition {
        self.attempts = 0;
        self.generation += 1;
        self.become_status(Status::Retrying)
    }

    fn become_status(&mut self, status: Status) -> Transition {
        self.status = status;
        let Self { id, attempts, generation, .. } = *self;
        Transition { id, status, attempts, generation }
    }
}

#[cfg(test)]
mod tests;
