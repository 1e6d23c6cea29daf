//! The aggregate: one SKU with its batches and order lines.

mod batches;
mod changes;
mod line;
mod lines;
#[expect(clippy::module_inception, reason = "the main file of this folder")]
mod product;
mod rules;
#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;

pub use batches::{BatchRank, BatchSearch, Batches};
pub use changes::ProductChanges;
pub use line::Line;
pub use product::Product;
pub use rules::OfferProgress;
