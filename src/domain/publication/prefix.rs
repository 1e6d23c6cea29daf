//! Which published rows may be removed from the outbox.

use std::collections::HashSet;

use super::outbox_row::{OutboxRow, PublishOutcome};

/// Of each SKU, the rows before its first unconfirmed one. Only they may be removed from the outbox: a row behind an
/// unconfirmed one is published again after it, so that a subscriber that accepts only the next sequence misses nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfirmedPrefix {
    /// The ids of these rows, in order.
    pub ids: Vec<i64>,
    /// Those of them that were unroutable.
    pub unroutable: Vec<i64>,
    /// The first row that has an unknown outcome and no unconfirmed row of its SKU before it. It may have closed the
    /// channel for all rows behind it; published alone, it gets an outcome of its own. `None` if it was published alone.
    pub suspect: Option<OutboxRow>,
}

impl ConfirmedPrefix {
    /// The prefix of rows that were published together.
    #[must_use]
    pub fn of(published: &[(OutboxRow, PublishOutcome)]) -> Self {
        let mut blocked = HashSet::new();
        let mut prefix = Self::default();
        for (row, outcome) in published {
            if outcome.is_accepted() {
                if !blocked.contains(row.sku.as_str()) {
                    prefix.ids.push(row.id);
                    prefix.unroutable.extend((*outcome == PublishOutcome::Unroutable).then_some(row.id));
                }
            } else if blocked.insert(row.sku.as_str())
                && prefix.suspect.is_none()
                && published.len() > 1
                && matches!(outcome, PublishOutcome::Unknown(_))
            {
                prefix.suspect = Some(row.clone());
            }
        }
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox_row::row;
    use super::*;

    fn of(rows: &[(i64, &str, PublishOutcome)]) -> ConfirmedPrefix {
        let published: Vec<_> =
            rows.iter().map(|(id, sku, outcome)| (row(*id, "allocated", sku), outcome.clone())).collect();
        ConfirmedPrefix::of(&published)
    }

    fn nacked() -> PublishOutcome {
        PublishOutcome::Nacked("full".into())
    }

    fn unknown() -> PublishOutcome {
        PublishOutcome::Unknown("channel closed".into())
    }

    #[test]
    fn rows_behind_an_unconfirmed_row_of_their_sku_stay_in_the_outbox() {
        let prefix = of(&[
            (1, "a", PublishOutcome::Confirmed),
            (2, "b", nacked()),
            (3, "a", PublishOutcome::Confirmed),
            (4, "b", PublishOutcome::Confirmed),
            (5, "c", PublishOutcome::Unroutable),
        ]);
        assert_eq!(prefix, ConfirmedPrefix { ids: vec![1, 3, 5], unroutable: vec![5], suspect: None });
    }

    #[test]
    fn a_row_behind_a_nacked_row_of_its_sku_is_not_a_suspect() {
        let suspect = |rows: &[_]| of(rows).suspect.map(|row| row.id);
        assert_eq!(suspect(&[(1, "a", nacked()), (2, "a", unknown()), (3, "b", unknown())]), Some(3));
        assert_eq!(suspect(&[(1, "a", nacked()), (2, "a", unknown())]), None);
    }

    #[test]
    fn a_row_that_was_published_alone_is_not_a_suspect() {
        assert_eq!(of(&[(1, "a", unknown())]).suspect, None);
        assert!(of(&[(1, "a", unknown()), (2, "b", unknown())]).suspect.is_some());
    }
}
