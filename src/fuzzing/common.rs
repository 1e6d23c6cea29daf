//! What several targets need.

use crate::service::decode::Limits;

pub(super) const LIMITS: Limits = Limits { body_bytes: 262_144, header_bytes: 65_536 };

/// Errors are stored, logged and shown on terminals.
pub(super) fn assert_printable(text: &str) {
    assert!(text.chars().count() <= 2100, "an error is short");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
