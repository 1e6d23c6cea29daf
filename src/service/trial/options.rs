//! What an operator may request of a trial.

use crate::domain::OperatorAction;

/// Which messages are tried in spite of a reason not to retry them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrialOptions {
    /// Those that were overtaken by a later command.
    pub even_overtaken: bool,
    /// Those whose worker crashed.
    pub even_if_it_crashes: bool,
}

impl TrialOptions {
    /// The action whose result is shown.
    pub(super) fn action(self) -> OperatorAction {
        if self.even_overtaken { OperatorAction::RetryOvertaken } else { OperatorAction::Retry }
    }
}
