//! Values of arguments that several subcommands take.

/// A text that is not blank: an unset variable of a script must not select everything.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn not_blank(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".into()) } else { Ok(text.to_owned()) }
}
