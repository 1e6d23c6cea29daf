//! The composition root: the only folder that knows every layer. It builds the parts and starts the roles.

mod app;
mod csv_rows;
mod csv_run;
mod csv_stock;
mod demo_run;
mod memory;
mod roles;
mod servers;
mod wait;

pub use app::App;
pub use csv_run::{CsvErrors, CsvReport, allocate_files};
pub use demo_run::{DemoReport, play_in_memory};
pub use roles::Role;
