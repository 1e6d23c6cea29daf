//! Text from outside the program, made safe to keep and to print.

/// No text that [`sanitize`] returns has more characters.
const MAX_CHARS: usize = 2000;

/// Replaces characters that would break a terminal, a log or a database column, and cuts text that is too long.
#[must_use]
pub fn sanitize(text: &str) -> String {
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
