//! The aggregate: one SKU with its batches and order lines.

mod changes;
mod line;
#[expect(clippy::module_inception, reason = "the main file of this folder")]
mod product;
mod rules;
#[cfg(test)]
mod tests;

pub use changes::ProductChanges;
pub use line::Line;
pub use product::Product;
