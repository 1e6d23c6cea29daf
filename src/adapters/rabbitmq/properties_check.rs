//! What must hold for the properties of any message, for fuzzing.

use std::sync::Arc;

use lapin::protocol::basic::parse_properties;
use uuid::Uuid;

use crate::ports::{failed_messages::DueRetry, queue::RawProperties as _};

use super::{
    properties::{AmqpProperties, death_reason, first_routing_key, size},
    retry_properties::{retry_mark, retry_properties},
    stored_properties,
};

/// Parses properties in AMQP's encoding. They can be shown, stored, and published again without the broker's headers.
pub(crate) fn check_properties(data: &[u8]) {
    let Ok((_, properties)) = parse_properties(data) else { return };
    let _ = (death_reason(&properties), first_routing_key(&properties), size(&properties));
    let original = Arc::new(AmqpProperties(properties));
    let shown: serde_json::Value = serde_json::from_str(&original.to_json()).expect("it is JSON");
    assert!(shown.is_object());
    let stored = original.to_bytes();
    assert_eq!(stored_properties::encode(&stored_properties::decode(&stored)), stored, "nothing is lost");
    let restored = stored_properties::decode(&stored);
    let retry = DueRetry {
        id: 1,
        generation: 2,
        queue: "orders".into(),
        message_id: Some("m-1".into()),
        kind: "allocate".into(),
        body: Vec::new(),
        original: stored,
        edited: false,
        secret: Uuid::nil(),
    };
    let published = retry_properties(&retry);
    let mark = retry_mark(&published).expect("a retry has a retry mark");
    assert_eq!((mark.failed_message_id, mark.generation, mark.secret), (1, 2, Uuid::nil()));
    assert_eq!(death_reason(&published), None);
    assert_eq!(published.correlation_id(), restored.correlation_id());
}
