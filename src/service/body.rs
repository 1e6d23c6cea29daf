//! Reads the JSON of bodies.

use crate::{
    domain::ReadError,
    ports::{routing, text::sanitize},
};

use super::{decode_error::DecodeError, envelope::Content};

/// The deepest allowed nesting of arrays and objects.
pub(super) const MAX_DEPTH: usize = 128;

/// The fields of all types. Senders can choose any number of other names.
const FIELDS: [&str; 7] = ["orderid", "sku", "qty", "ref", "eta", "batchref", "revision"];

/// Reads the body of a message of this type.
///
/// # Errors
/// [`DecodeError::UnknownCommand`], or [`DecodeError::InvalidBody`], which names the field.
pub fn read_body(kind: &str, body: &[u8]) -> Result<Content, DecodeError> {
    if depth(body) > MAX_DEPTH {
        return Err(DecodeError::InvalidBody(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    // Serde would also read an array, by position.
    if !matches!(body.trim_ascii_start().first(), Some(b'{')) && routing::queue_of(kind).is_some() {
        return Err(DecodeError::InvalidBody("the body must be a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    match Content::read(kind, &mut json) {
        Ok(content) => match json.end() {
            Ok(()) => Ok(content),
            Err(error) => Err(invalid(&error.to_string())),
        },
        Err(ReadError::UnknownCommand(kind)) => Err(DecodeError::unknown_command(&kind)),
        // The path to the field costs time, so it is determined only for an invalid body.
        Err(ReadError::Body(error)) => {
            Err(invalid(&with_field(kind, body).unwrap_or_else(|| error.to_string())))
        }
    }
}

/// The text may repeat a part of the body.
fn invalid(text: &str) -> DecodeError {
    DecodeError::InvalidBody(sanitize(text))
}

fn with_field(kind: &str, body: &[u8]) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let error = Content::read(kind, tracked).err()?;
    let path = track.path();
    let first = path.iter().next().map(ToString::to_string);
    Some(match first.as_deref() {
        None => error.to_string(),
        Some(first) if FIELDS.contains(&first) => format!("{path}: {error}"),
        // Quoted: errors of fields with any name have one cause.
        Some(_) => format!("{:?}: {error}", path.to_string()),
    })
}

/// The deepest nesting of arrays and objects, found without parsing the body.
pub(super) fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::{super::failure::Failure, *};

    fn error(kind: &str, body: &str) -> String {
        read_body(kind, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_field() {
        let cases = [
            (
                r#"{"orderid": "o1", "sku": "s", "qty": -1}"#,
                "qty: must be a whole number from 1 to 2147483647",
            ),
            (r#"{"orderid": "", "sku": "s", "qty": 1}"#, "orderid: must be 1 to 255 characters, not blank"),
            (r#"{"orderid": "o1", "qty": 1}"#, "missing field `sku`"),
            (r#"{"orderid": null, "sku": "s", "qty": 1}"#, "orderid: invalid type: null"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1.5}"#, "qty: invalid type: floating point `1.5`"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1, "qty": 2}"#, "duplicate field `qty`"),
            (r#"{"orderid": "o1", "sku": "s", "qty": 1} x"#, "trailing characters"),
            ("", "must be a JSON object"),
            (r#"["o1", "s", 1]"#, "must be a JSON object"),
            (r#"{"orderid": "o1""#, "EOF"),
            (r#"{"gggggk": tru}"#, r#""gggggk": expected ident"#),
            (r#"{"a\"b": {"c": [1, tru]}}"#, "expected ident"),
        ];
        for (body, expected) in cases {
            let error = error("allocate", body);
            assert!(error.contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn errors_in_fields_of_any_unknown_name_have_one_pattern() {
        let pattern = |body: &str| {
            let error = read_body("allocate", body.as_bytes()).unwrap_err();
            Failure::from(error).error_pattern()
        };
        let first = pattern(r#"{"gggggk": tru}"#);
        for name in ["x", "a: b", r#"a\"b"#, "a`b'c", "1", "é.x[0]"] {
            assert_eq!(pattern(&format!(r#"{{"{name}": tru}}"#)), first, "{name}");
        }
        assert_ne!(pattern(r#"{"qty": tru}"#), first);
    }

    #[test]
    fn a_deeply_nested_body_is_an_error_not_a_crash() {
        let nested = |levels: usize| {
            let inside = levels - 1;
            format!(r#"{{"orderid": "[\"", "sku": "s", "x": {}{}}}"#, "[".repeat(inside), "]".repeat(inside))
        };
        assert!(read_body("deallocate", nested(128).as_bytes()).is_ok());
        for levels in [129, 50_000] {
            assert_eq!(error("deallocate", &nested(levels)), "nested deeper than 128 levels");
        }
    }
}
