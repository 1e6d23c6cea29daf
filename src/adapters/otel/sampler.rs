//! Which traces are recorded, and the ids of their spans.

use crate::ports::trace::TraceContext;

/// Decides which traces are recorded: as their sender has decided, or else a random part of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    /// The part, from 0 to 1.
    pub(super) ratio: f64,
}

impl Sampler {
    /// The context of a new span, if it is recorded. It belongs to the trace of its parent, unless `is_root`.
    pub(super) fn begin(self, parent: Option<TraceContext>, is_root: bool) -> Option<TraceContext> {
        let is_sampled = parent.map_or_else(|| fastrand::f64() < self.ratio, |parent| parent.is_sampled);
        match parent {
            _ if !is_sampled => None,
            Some(parent) if !is_root => Some(child(parent)),
            _ => Some(root()),
        }
    }
}

/// The context of a span in a trace of its own.
pub(super) fn root() -> TraceContext {
    TraceContext { trace_id: fastrand::u128(1..), span_id: span_id(), is_sampled: true }
}

/// The context of a span in the trace of `parent`.
pub(super) fn child(parent: TraceContext) -> TraceContext {
    TraceContext { span_id: span_id(), ..parent }
}

fn span_id() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: TraceContext = TraceContext { trace_id: 7, span_id: 8, is_sampled: true };
    const UNSAMPLED: TraceContext = TraceContext { is_sampled: false, ..PARENT };

    fn part(ratio: f64) -> usize {
        (0..10_000).filter(|_| Sampler { ratio }.begin(None, false).is_some()).count()
    }

    #[test]
    fn the_parent_decides() {
        for ratio in [0.0, 1.0] {
            let sampler = Sampler { ratio };
            for is_root in [false, true] {
                assert_eq!(sampler.begin(Some(UNSAMPLED), is_root), None);
                assert!(sampler.begin(Some(PARENT), is_root).is_some());
            }
        }
    }

    #[test]
    fn without_a_parent_the_ratio_decides() {
        assert_eq!((part(0.0), part(1.0)), (0, 10_000));
        assert!((50..200).contains(&part(0.01)));
    }

    #[test]
    fn a_span_belongs_to_the_trace_of_its_parent_unless_it_is_a_root() {
        let sampler = Sampler { ratio: 0.0 };
        let child = sampler.begin(Some(PARENT), false).unwrap();
        assert_eq!((child.trace_id, child.is_sampled), (PARENT.trace_id, true));
        assert_ne!(child.span_id, PARENT.span_id);
        assert_ne!(sampler.begin(Some(PARENT), true).unwrap().trace_id, PARENT.trace_id);
    }
}
