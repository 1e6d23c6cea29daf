//! The composition root: the only folder that knows every layer. It builds the parts and starts the roles.

mod app;
#[cfg(any(test, fuzzing))]
mod csv_check;
mod csv_rows;
mod csv_run;
mod csv_stock;
mod demo_run;
mod diagnosis;
mod doctor;
mod health;
mod heartbeat;
mod memory;
mod metrics;
mod observation;
mod policy;
mod roles;
mod servers;
mod storage;
mod trial;
mod wait;

pub use app::App;
#[cfg(any(test, fuzzing))]
pub(crate) use csv_check::check_csv;
pub use csv_run::{CsvErrors, CsvReport, allocate_files};
pub use demo_run::{DemoReport, play_in_memory};
pub use roles::Role;
