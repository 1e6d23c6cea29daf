//! What a scenario came to.

use std::time::Duration;

/// A row of the table, and what is wrong if anything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) scenario: String,
    pub(crate) injected: String,
    /// Proof that the fault met work in flight.
    pub(crate) hits: Vec<String>,
    /// Confirmed commands without effect and without a grave; events that did not come.
    pub(crate) lost: Vec<String>,
    /// Effects and events that took place more than once.
    pub(crate) double: Vec<String>,
    /// Events that came before their predecessors.
    pub(crate) out_of_order: Vec<String>,
    /// Messages that are dead.
    pub(crate) dead: usize,
    /// Publications of events that had been published.
    pub(crate) duplicates: usize,
    /// Whatever else is not as it must be, says the checker, or the scenario itself.
    pub(crate) complaints: Vec<String>,
    /// Why it could not be played to its end; nothing if it was.
    pub(crate) broke_off: Option<String>,
    /// What was said by tries before this one, which broke off.
    pub(crate) earlier_tries: Vec<String>,
    pub(crate) took: Duration,
}

impl Verdict {
    /// A scenario that could not be played to its end.
    pub(crate) fn broken(scenario: &str, injected: &str, why: &anyhow::Error, took: Duration) -> Self {
        Self {
            scenario: scenario.to_owned(),
            injected: injected.to_owned(),
            broke_off: Some(format!("{why:#}")),
            took,
            ..Self::default()
        }
    }

    /// Everything that is wrong, in words.
    pub(crate) fn violations(&self) -> Vec<String> {
        let kinds = [("lost", &self.lost), ("double", &self.double), ("out of order", &self.out_of_order)];
        let mut all: Vec<_> = kinds
            .iter()
            .filter(|(_, found)| !found.is_empty())
            .map(|(kind, found)| format!("{kind}: {} ({})", found.len(), few(found)))
            .collect();
        all.extend_from_slice(&self.complaints);
        match &self.broke_off {
            Some(why) => all.push(format!("it broke off: {why}")),
            None if self.hits.is_empty() => all.push("the fault met no work in flight".into()),
            None => {}
        }
        all
    }

    /// Only what broke off, and only if nothing was found wrong before: what is wrong once is so for ever.
    pub(crate) fn may_be_played_again(&self) -> bool {
        let found = [&self.lost, &self.double, &self.out_of_order, &self.complaints];
        self.broke_off.is_some() && found.into_iter().all(Vec::is_empty)
    }

    /// The same, after another try that broke off.
    pub(crate) fn after(mut self, earlier: Self) -> Self {
        self.earlier_tries = earlier.earlier_tries;
        self.earlier_tries.extend(earlier.broke_off);
        self
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.violations().is_empty()
    }
}

fn few(found: &[String]) -> String {
    let shown = found[..found.len().min(5)].join(", ");
    if found.len() > 5 { format!("{shown}, …") } else { shown }
}
