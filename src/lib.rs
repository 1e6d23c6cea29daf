#![doc = include_str!("../README.md")]

pub mod adapters;
pub mod address;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod domain;
pub mod entrypoints;
pub mod faults;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod pg;
pub mod ports;
mod reexec;
pub mod service;
mod telemetry;
pub mod views;
