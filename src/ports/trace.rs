//! The trace context of the W3C: what a message says about the trace that it belongs to.

use std::fmt;

/// The length of a value of version 00.
const LENGTH: usize = 55;
/// The longest value of a later version, which may have more fields.
const MAX_LENGTH: usize = 256;
/// What every system must be able to pass on of a `tracestate`; a longer one is not passed on.
const MAX_TRACESTATE: usize = 512;
/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// The trace that a message belongs to, and the span that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The id of the trace.
    pub trace_id: u128,
    /// The id of the span.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`: version, trace id, parent id and flags. None if it is not one.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let fields: Vec<_> = value.splitn(5, '-').collect();
        let [version, trace_id, span_id, flags, ..] = fields[..] else { return None };
        let is_version = match version {
            "00" => value.len() == LENGTH,
            later => is_hex(later, 2) && later != "ff" && value.len() <= MAX_LENGTH && value.is_ascii(),
        };
        if !(is_version && is_id(trace_id, 32) && is_id(span_id, 16) && is_hex(flags, 2)) {
            return None;
        }
        Some(Self {
            trace_id: u128::from_str_radix(trace_id, 16).ok()?,
            span_id: u64::from_str_radix(span_id, 16).ok()?,
            is_sampled: u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0,
        })
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, is_sampled } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*is_sampled) * SAMPLED)
    }
}

/// Whether a value is a `tracestate` that is passed on. Its content has a meaning only to the systems that wrote it.
#[must_use]
pub fn is_tracestate(value: &str) -> bool {
    let is_visible = |byte: u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    (1..=MAX_TRACESTATE).contains(&value.len()) && value.contains('=') && value.bytes().all(is_visible)
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
        let sampled = TraceContext {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            is_sampled: true,
        };
        let later = VALID.replacen("00", "cc", 1);
        for valid in [VALID, &later, &format!("{later}-more-fields")] {
            assert_eq!(TraceContext::parse(valid), Some(sampled), "{valid}");
        }
        assert_eq!(sampled.to_string(), VALID);
        for (flags, is_sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let parsed = TraceContext::parse(&format!("{}{flags}", &VALID[..53]));
            assert_eq!(parsed, Some(TraceContext { is_sampled, ..sampled }), "{flags}");
        }
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
            assert_eq!(TraceContext::parse(&invalid), None, "{invalid:.80}");
        }
    }

    #[test]
    fn a_tracestate_is_short_visible_text() {
        for valid in ["congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", &"x=".repeat(256)] {
            assert!(is_tracestate(valid), "{valid}");
        }
        for invalid in ["", "congo", "a=b\n", "ä=b", "a=\0", &"x=".repeat(257)] {
            assert!(!is_tracestate(invalid), "{invalid}");
        }
    }
}
