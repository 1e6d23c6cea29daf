//! The trace context of the W3C, as far as this service checks it before it copies it to events.

/// The length of a value of version 00.
const LENGTH: usize = 55;
/// The longest value of a later version, which may have more fields.
const MAX_LENGTH: usize = 256;

/// Whether a value is a `traceparent` as the W3C defines it: version, trace id, parent id and flags.
pub(super) fn is_traceparent(value: &str) -> bool {
    let fields: Vec<_> = value.splitn(5, '-').collect();
    let [version, trace_id, parent_id, flags, ..] = fields[..] else { return false };
    let is_version = match version {
        "00" => value.len() == LENGTH,
        later => is_hex(later, 2) && later != "ff" && value.len() <= MAX_LENGTH && value.is_ascii(),
    };
    is_version && is_id(trace_id, 32) && is_id(parent_id, 16) && is_hex(flags, 2)
}

/// An id of zeros is invalid.
fn is_id(id: &str, length: usize) -> bool {
    is_hex(id, length) && id.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_value_as_the_w3c_defines_it_is_valid() {
        assert!(is_traceparent(VALID));
        assert!(is_traceparent(&VALID.replacen("00", "cc", 1)));
        assert!(is_traceparent(&format!("{}-more-fields", VALID.replacen("00", "cc", 1))));
    }

    #[test]
    fn any_other_value_is_invalid() {
        let (zeros, later) = ("0".repeat(32), VALID.replacen("00", "cc", 1));
        for invalid in [
            String::new(),
            "x".repeat(60_000),
            VALID.to_uppercase(),
            VALID.replacen("00", "ff", 1),
            format!(" {VALID}"),
            format!("{VALID}\n"),
            format!("{VALID}-more"),
            format!("{later}x"),
            format!("{later}-{}", "x".repeat(60_000)),
            VALID[..54].to_owned(),
            VALID.replace('-', ""),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            VALID.replace("b7ad6b7169203331", &zeros[..16]),
            VALID.replace("0af7", "0äf"),
        ] {
            assert!(!is_traceparent(&invalid), "{invalid:.80}");
        }
    }
}
