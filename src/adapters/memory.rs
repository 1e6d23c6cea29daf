//! The fakes.
