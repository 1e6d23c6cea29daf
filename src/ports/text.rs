//! Text from outside the program, made safe to keep and to print.

use std::{borrow::Cow, fmt::Write as _};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// No text that [`sanitize`] returns has more characters.
const MAX_CHARS: usize = 2000;
/// What is shown in place of a character that is not printable.
const REPLACEMENT: char = '\u{fffd}';

/// Whether a character can be shown as it is. Control characters can control a terminal, and format characters can hide
/// text or change its direction.
#[must_use]
pub fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    !matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Replaces every character that is not printable.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if is_printable(character) { character } else { REPLACEMENT }).collect()
}

/// Makes text safe for a terminal, a log and a database column, and cuts text that is too long.
#[must_use]
pub fn sanitize(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => printable(&text[..end]),
        None => printable(text),
    }
}

/// Writes characters of JSON that are not printable as escapes, which are the same JSON.
#[must_use]
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // An ASCII control character in a string is an escape already, and outside of one it is white space.
    let is_hidden = |character: char| character > '~' && !is_printable(character);
    if !json.contains(is_hidden) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
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
    fn characters_that_are_not_printable_are_replaced_and_long_texts_are_cut() {
        assert_eq!(sanitize("a\nb\u{1b}[31m\0é"), "a\u{fffd}b\u{fffd}[31m\u{fffd}é");
        for hidden in
            ["\u{202e}", "\u{2066}", "\u{200b}", "\u{ad}", "\u{feff}", "\u{2028}", "\u{9b}", "\u{e0041}"]
        {
            assert_eq!(printable(hidden), "\u{fffd}", "{hidden:?}");
        }
        assert_eq!(printable("日本\u{a0}ﬀ😀e\u{301}"), "日本\u{a0}ﬀ😀e\u{301}");
        assert_eq!(sanitize(&"é".repeat(2001)), "é".repeat(2000));
        assert_eq!(replace_nul("a\0b\n"), "a\u{fffd}b\n");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let text = "a\u{202e}\u{9b}\u{7f}\u{e0041}\u{1b}é\n";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let escaped = escape_json(&json);
        assert_eq!(escaped, "[\n  \"a\\u202e\\u009b\\u007f\\udb40\\udc41\\u001bé\\n\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&escaped).unwrap(), [text]);
    }
}
