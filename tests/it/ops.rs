//! The folder `ops`: alerting rules, their tests, and the dashboard.

mod alert_tests;
mod dashboard;
mod expressions;
mod names;
mod outages;
pub(crate) mod rules;
mod scrape;
mod stage;
