//! Progress and errors, on standard error.

use std::io::{self, Write as _};

pub(crate) fn log(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
