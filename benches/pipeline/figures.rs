//! What was measured: for each name a figure per round.

use std::{collections::BTreeMap, time::Duration};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<&'static str, Vec<f64>>);

impl Figures {
    /// Keeps a round's figure.
    pub(crate) fn add(&mut self, name: &'static str, figure: f64) {
        self.0.entry(name).or_default().push(figure);
    }

    /// A figure of each round; none if it was not measured.
    pub(crate) fn rounds(&self, name: &str) -> Vec<f64> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// Of each round, one figure as a multiple of another.
    pub(crate) fn ratios(&self, name: &str, to: &str) -> Vec<f64> {
        self.rounds(name).iter().zip(self.rounds(to)).map(|(one, other)| one / other).collect()
    }
}

/// The figure in the middle, or between the two in the middle.
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

/// The smallest duration that so many of a thousand do not exceed.
///
/// # Panics
/// If there are none, or they are not sorted.
pub(crate) fn per_mille(sorted: &[Duration], per_mille: usize) -> Duration {
    assert!(sorted.is_sorted(), "a percentile is taken of sorted durations");
    sorted[(sorted.len() * per_mille).div_ceil(1000) - 1]
}

/// The duration in the middle.
///
/// # Panics
/// If there are none.
pub(crate) fn middle(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    per_mille(&took, 500)
}

/// Milliseconds, with their fraction.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
