//! The measured figures: one per name and round.

use std::{collections::BTreeMap, time::Duration};

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<&'static str, Vec<f64>>);

impl Figures {
    /// Adds the figure of a round.
    pub(crate) fn add(&mut self, name: &'static str, figure: f64) {
        self.0.entry(name).or_default().push(figure);
    }

    /// The figures of all rounds.
    pub(crate) fn rounds(&self, name: &str) -> Vec<f64> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// The ratio of two figures in each round.
    pub(crate) fn ratios(&self, name: &str, to: &str) -> Vec<f64> {
        self.rounds(name).iter().zip(self.rounds(to)).map(|(one, other)| one / other).collect()
    }
}

/// The median.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The quantile `per_mille` / 1000.
///
/// # Panics
/// If there are no durations, or they are not sorted.
pub(crate) fn per_mille(sorted: &[Duration], per_mille: usize) -> Duration {
    assert!(sorted.is_sorted(), "the durations are sorted");
    sorted[(sorted.len() * per_mille).div_ceil(1000) - 1]
}

/// The median duration.
///
/// # Panics
/// If there are no durations.
pub(crate) fn middle(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    per_mille(&took, 500)
}

/// Milliseconds with a fraction.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
