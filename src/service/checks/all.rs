//! All checks, in the order in which an operator reads them.

use crate::ports::checks::Inspection;

use super::{broker, check::Check, database, system};

/// The checks of an inspection.
#[must_use]
pub fn all_checks(inspected: &Inspection) -> Vec<Check> {
    [database::checks(inspected), broker::checks(inspected), system::checks(inspected)].concat()
}
