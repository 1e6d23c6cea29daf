//! Commands about one line or batch take effect in the order of their arrival, also when some of them are retried.

mod operators;
mod processes;
mod random_runs;
mod simulation;
mod single_active_consumer;
