//! Text from outside the program, made safe to keep and to print.

/// No text that [`sanitize`] returns has more characters.
const MAX_CHARS: usize = 2000;

/// Replaces characters that would break a terminal, a log or a database column, and cuts text that is too long.
#[must_use]
pub fn sanitize(text: &str) -> String {
    text.chars().take(MAX_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Replaces U+0000, which a database cannot store in text.
#[must_use]
pub fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_and_long_texts_are_cut() {
        assert_eq!(sanitize("a\nb\u{1b}[31m\0é"), "a\u{fffd}b\u{fffd}[31m\u{fffd}é");
        assert_eq!(sanitize(&"é".repeat(2001)), "é".repeat(2000));
        assert_eq!(replace_nul("a\0b\n"), "a\u{fffd}b\n");
    }
}
