//! `dead-letters try`: what a retry would do, without a change.

mod faulty_dry_runs;
mod locks;
mod order;
mod predictions;
mod program;
mod world;
