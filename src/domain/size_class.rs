//! Classes of available quantities, for the search of the first batch that a line fits into.

/// A quantity below this has a class of its own.
const EXACT: u32 = 16;
/// Classes between two powers of two.
const PER_DOUBLING: u32 = 8;

/// The class of an available quantity. A larger quantity never has a smaller class.
///
/// There are few classes, so that each can be searched, and each is narrow: its quantities differ by less than an eighth.
/// Most allocations leave a batch in its class, and an index by class unchanged. The column `batches.size_class` is the
/// same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeClass(u32);

impl SizeClass {
    /// The class of a quantity.
    #[must_use]
    pub fn of(quantity: u32) -> Self {
        let class = if quantity < EXACT {
            quantity
        } else {
            let doubling = quantity.ilog2() - EXACT.ilog2();
            let part = (quantity >> (quantity.ilog2() - PER_DOUBLING.ilog2())) % PER_DOUBLING;
            EXACT + doubling * PER_DOUBLING + part
        };
        Self(class)
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The next larger class.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The smallest quantity of the class.
    #[must_use]
    pub fn least(self) -> u64 {
        let class = u64::from(self.0);
        let (exact, per_doubling) = (u64::from(EXACT), u64::from(PER_DOUBLING));
        if class < exact {
            return class;
        }
        let (doubling, part) = ((class - exact) / per_doubling, (class - exact) % per_doubling);
        (exact << doubling) + ((exact / per_doubling * part) << doubling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_begins_at_its_smallest_quantity() {
        let largest = SizeClass::of(i32::MAX as u32);
        assert_eq!(largest.number(), 231);
        for number in 1..=largest.number() {
            let class = SizeClass(number);
            let least = u32::try_from(class.least()).unwrap();
            assert_eq!(SizeClass::of(least), class);
            assert_eq!(SizeClass::of(least - 1), SizeClass(number - 1));
        }
        assert_eq!(largest.next().least(), 1 << 31);
    }

    #[test]
    fn small_quantities_have_their_own_class_and_others_differ_by_less_than_an_eighth() {
        for quantity in [1, 2, 15, 16, 17, 100, 1_000_000, i32::MAX as u32] {
            let class = SizeClass::of(quantity);
            let width = class.next().least() - class.least();
            assert!(width == 1 || width <= class.least() / 8, "{quantity}");
        }
        assert_eq!(SizeClass::of(15).next().least(), 16);
    }
}
