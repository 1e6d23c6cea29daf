//! Deterministic pseudo-random numbers (splitmix64).

use std::time::Duration;

/// A random number generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `end`, exclusive.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next_bits() % u64::from(end.max(1))).unwrap_or_default()
    }

    /// True with a probability of `chance` percent.
    pub(crate) fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }

    /// A duration below the limit.
    pub(crate) fn duration_below(&mut self, limit: Duration) -> Duration {
        limit * self.below(1000) / 1000
    }

    /// Shuffles a slice.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let target = usize::try_from(self.next_bits() % (last as u64 + 1)).unwrap_or_default();
            items.swap(last, target);
        }
    }

    fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
