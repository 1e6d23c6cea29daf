//! Metric families, each with the names of its labels. The values of labels come from enums and constants of the code.

use std::{array, fmt, ops::Deref, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeMetric,
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The begin of every name.
const PREFIX: &str = "allocation";

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A metric family, for the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The whole name, as samples have it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of the labels.
    pub labels: Vec<&'static str>,
    /// What it means.
    pub help: &'static str,
}

/// The series of a metric family.
pub(super) struct Series<M, const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, M>,
}

impl<M, const N: usize> Series<M, N> {
    /// The series with these values of the labels, in their order.
    pub(super) fn of(&self, values: [&'static str; N]) -> impl Deref<Target = M> + '_ {
        self.family.get_or_create(&self.labelled(values))
    }

    /// Removes one series.
    pub(super) fn remove(&self, values: [&'static str; N]) {
        self.family.remove(&self.labelled(values));
    }

    fn labelled(&self, values: [&'static str; N]) -> Labels<N> {
        array::from_fn(|index| (self.labels[index], values[index]))
    }

    /// Removes all series.
    pub(super) fn clear(&self) {
        self.family.clear();
    }
}

/// A counter of seconds.
pub(super) type Seconds = Counter<f64, AtomicU64>;
/// A gauge of seconds.
pub(super) type SecondsGauge = Gauge<f64, AtomicU64>;

/// Registers metric families.
pub(super) struct Catalog {
    pub(super) registry: Registry,
    pub(super) descriptions: Vec<Description>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { registry: Registry::with_prefix(PREFIX), descriptions: Vec::new() }
    }
}

impl Catalog {
    /// Counts events. `name` is without `_total`.
    pub(super) fn counter<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Series<Counter, N> {
        self.register(name, "counter", labels, help, Family::default())
    }

    /// Counts seconds. `name` is without `_total`.
    pub(super) fn seconds<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Series<Seconds, N> {
        self.register(name, "counter", labels, help, Family::default())
    }

    /// A number that rises and falls.
    pub(super) fn gauge<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Series<Gauge, N> {
        self.register(name, "gauge", labels, help, Family::default())
    }

    /// A time that rises and falls.
    pub(super) fn seconds_gauge<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Series<SecondsGauge, N> {
        self.register(name, "gauge", labels, help, Family::default())
    }

    /// A distribution. `buckets` makes a histogram.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
        buckets: fn() -> Histogram,
    ) -> Series<Histogram, N> {
        self.register(name, "histogram", labels, help, Family::new_with_constructor(buckets))
    }

    fn register<M, const N: usize>(
        &mut self,
        name: &'static str,
        kind: &'static str,
        labels: [&'static str; N],
        help: &'static str,
        family: Family<Labels<N>, M>,
    ) -> Series<M, N>
    where
        M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
    {
        self.registry.register(name, help, family.clone());
        let suffix = if kind == "counter" { "_total" } else { "" };
        let description =
            Description { name: format!("{PREFIX}_{name}{suffix}"), kind, labels: labels.to_vec(), help };
        self.descriptions.push(description);
        Series { labels, family }
    }
}
