//! The metrics of processes, as Prometheus scrapes them.

mod counts;
mod leader;
mod listener;
mod outages;
mod publication;
mod series;
