//! The result of a scenario.

use std::time::Duration;

/// A row of the result table, and every violation.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckReport {
    pub(crate) scenario: String,
    pub(crate) injected: String,
    /// Evidence that the fault interrupted work in flight.
    pub(crate) evidence: Vec<String>,
    /// Confirmed commands without effect and without dead letter; events that did not arrive.
    pub(crate) lost: Vec<String>,
    /// Effects and events that occurred more than once.
    pub(crate) repeated: Vec<String>,
    /// Events that arrived before their predecessors.
    pub(crate) out_of_order: Vec<String>,
    /// The number of dead letters.
    pub(crate) dead: usize,
    /// Publications of events that had been published before.
    pub(crate) duplicates: usize,
    /// Other violations, found by the checker or by the scenario itself.
    pub(crate) violations: Vec<String>,
    /// Why the scenario was aborted; `None` if it was not.
    pub(crate) aborted: Option<String>,
    /// The errors of earlier runs that were aborted.
    pub(crate) earlier_runs: Vec<String>,
    pub(crate) elapsed: Duration,
}

impl CheckReport {
    /// The report of an aborted scenario.
    pub(crate) fn aborted(scenario: &str, injected: &str, error: &anyhow::Error, elapsed: Duration) -> Self {
        Self {
            scenario: scenario.to_owned(),
            injected: injected.to_owned(),
            aborted: Some(format!("{error:#}")),
            elapsed,
            ..Self::default()
        }
    }

    /// Every finding as text.
    pub(crate) fn findings(&self) -> Vec<String> {
        let kinds =
            [("lost", &self.lost), ("repeated", &self.repeated), ("out of order", &self.out_of_order)];
        let mut all: Vec<_> = kinds
            .iter()
            .filter(|(_, found)| !found.is_empty())
            .map(|(kind, found)| format!("{kind}: {} ({})", found.len(), first_few(found)))
            .collect();
        all.extend_from_slice(&self.violations);
        match &self.aborted {
            Some(error) => all.push(format!("aborted: {error}")),
            None if self.evidence.is_empty() => all.push("the fault interrupted no work in flight".into()),
            None => {}
        }
        all
    }

    /// True if the scenario was aborted without a violation. A violation is permanent, so a repetition cannot clear
    /// it.
    pub(crate) fn may_be_retried(&self) -> bool {
        let found = [&self.lost, &self.repeated, &self.out_of_order, &self.violations];
        self.aborted.is_some() && found.into_iter().all(Vec::is_empty)
    }

    /// This report, with the errors of an earlier aborted run.
    pub(crate) fn preceded_by(mut self, earlier: Self) -> Self {
        self.earlier_runs = earlier.earlier_runs;
        self.earlier_runs.extend(earlier.aborted);
        self
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.findings().is_empty()
    }
}

fn first_few(found: &[String]) -> String {
    let shown = found[..found.len().min(5)].join(", ");
    if found.len() > 5 { format!("{shown}, …") } else { shown }
}
