//! JSON as text: its layout may change while every value, duplicate field and digit stays.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::body::{MAX_DEPTH, depth};

const INDENT: &str = "  ";

/// Whether two texts are JSON of the same value: they differ at most in white space, in the order of fields, and in how
/// strings are escaped. Numbers that are written differently are different.
#[must_use]
pub fn same_value(one: &[u8], other: &[u8]) -> bool {
    match (parse(one), parse(other)) {
        (Some(one), Some(other)) => same(one, other),
        _ => false,
    }
}

/// JSON with one field or element in each line; none if the text is not JSON.
#[must_use]
pub fn indented(text: &[u8]) -> Option<String> {
    let json = parse(text)?.get();
    let mut lines = String::with_capacity(2 * json.len());
    let (mut level, mut in_text, mut escaped) = (0, false, false);
    let mut rest = json.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            _ if in_text => {
                lines.push(character);
                in_text = escaped || character != '"';
                escaped = !escaped && character == '\\';
            }
            '{' | '[' => {
                lines.push(character);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = rest.next_if(|next| matches!(next, '}' | ']')) {
                    lines.push(end);
                } else {
                    level += 1;
                    begin_line(&mut lines, level);
                }
            }
            '}' | ']' => {
                level -= 1;
                begin_line(&mut lines, level);
                lines.push(character);
            }
            ',' => {
                lines.push(character);
                begin_line(&mut lines, level);
            }
            ':' => lines.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => {
                lines.push(other);
                in_text = other == '"';
            }
        }
    }
    lines.push('\n');
    Some(lines)
}

fn begin_line(lines: &mut String, level: usize) {
    lines.push('\n');
    lines.extend(std::iter::repeat_n(INDENT, level));
}

fn parse(text: &[u8]) -> Option<&RawValue> {
    if depth(text) > MAX_DEPTH {
        return None;
    }
    serde_json::from_slice::<IgnoredAny>(text).ok()?;
    serde_json::from_slice(text).ok()
}

fn same(one: &RawValue, other: &RawValue) -> bool {
    let (one, other) = (one.get(), other.get());
    match (one.as_bytes(), other.as_bytes()) {
        ([b'{', ..], [b'{', ..]) => match (read::<Fields>(one), read::<Fields>(other)) {
            (Some(one), Some(other)) => same_fields(one, other),
            _ => false,
        },
        ([b'[', ..], [b'[', ..]) => match (read::<Vec<&RawValue>>(one), read::<Vec<&RawValue>>(other)) {
            (Some(one), Some(other)) => {
                one.len() == other.len() && one.iter().enumerate().all(|(at, value)| same(value, other[at]))
            }
            _ => false,
        },
        ([b'"', ..], [b'"', ..]) => {
            one == other || read::<String>(one).is_some_and(|text| Some(text) == read(other))
        }
        _ => one == other,
    }
}

/// A field that occurs twice is compared in the order of its values: a reader may refuse it, or take the last one.
fn same_fields(Fields(mut one): Fields<'_>, Fields(mut other): Fields<'_>) -> bool {
    one.sort_by(|(one, _), (other, _)| one.cmp(other));
    other.sort_by(|(one, _), (other, _)| one.cmp(other));
    one.len() == other.len()
        && one.iter().enumerate().all(|(at, (name, value))| *name == other[at].0 && same(value, other[at].1))
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// The fields of an object, duplicates included.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(one: &str, other: &str) -> bool {
        same_value(one.as_bytes(), other.as_bytes())
    }

    #[test]
    fn white_space_order_of_fields_and_escapes_do_not_matter() {
        let one = r#"{"a": [1, {"b": null}], "c": "\u00e9", "d": true}"#;
        assert!(is_same(one, " {\"c\":\"é\",\n\t\"d\":true,\"a\":[1,{\"b\":null}]}\n"));
        assert!(is_same(r#""\ud800""#, r#""\ud800""#));
    }

    #[test]
    fn every_other_difference_matters() {
        for (one, other) in [
            ("1", "1.0"),
            ("18446744073709551616", "18446744073709551617"),
            ("[1, 2]", "[2, 1]"),
            ("[1]", "[1, 1]"),
            ("[]", "{}"),
            (r#"{"a": 1}"#, r#"{"a": 1, "a": 1}"#),
            (r#"{"a": 1, "a": 2}"#, r#"{"a": 2, "a": 1}"#),
            (r#"{"a": 1}"#, r#"{"b": 1}"#),
            (r#""1""#, "1"),
            ("{", "{"),
            ("", ""),
        ] {
            assert!(!is_same(one, other), "{one} and {other}");
        }
        let deep = "[".repeat(50_000) + &"]".repeat(50_000);
        assert!(!is_same(&deep, &deep), "it is not parsed");
    }

    #[test]
    fn indented_json_keeps_every_token() {
        let json = r#"{"b":[1,{"b" : "a, \"b\": {"}], "a":{},"a":[ ],"n":1.00e5, "q":"\\"}"#;
        let lines = "{\n  \"b\": [\n    1,\n    {\n      \"b\": \"a, \\\"b\\\": {\"\n    }\n  ],\n  \"a\": {},\n  \
                     \"a\": [],\n  \"n\": 1.00e5,\n  \"q\": \"\\\\\"\n}\n";
        assert_eq!(indented(json.as_bytes()).unwrap(), lines);
        assert!(is_same(json, lines));
        assert_eq!(indented(b"{"), None);
        assert_eq!(indented(b"\xff"), None);
    }
}
