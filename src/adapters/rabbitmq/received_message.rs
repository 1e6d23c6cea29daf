//! From AMQP properties and a body to a message.

use std::sync::Arc;

use lapin::{BasicProperties, types::ShortString};

use crate::ports::{dry_run::RetryDelivery, failed_messages::DueRetry, queue::Message};

use super::{
    properties,
    retry_properties::{retry_mark, retry_properties},
};

/// A received message. Without a type it has `routing_key` as its type.
pub(super) fn received_message(properties: BasicProperties, routing_key: &str, body: Arc<[u8]>) -> Message {
    let text_of = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Message {
        kind: text_of(properties.kind()).unwrap_or_else(|| routing_key.to_owned()),
        message_id: text_of(properties.message_id()),
        correlation_id: text_of(properties.correlation_id()),
        traceparent: properties::text_header(&properties, properties::TRACEPARENT),
        tracestate: properties::text_header(&properties, properties::TRACESTATE),
        content_type: text_of(properties.content_type()),
        content_encoding: text_of(properties.content_encoding()),
        header_bytes: properties::size(&properties),
        retry: retry_mark(&properties),
        death_reason: properties::death_reason(&properties),
        body,
        original: Some(Arc::new(properties::AmqpProperties(properties))),
    }
}

/// A retry as a consumer receives it, without a broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct RabbitRetryDelivery;

impl RetryDelivery for RabbitRetryDelivery {
    fn delivered(&self, copy: &DueRetry) -> Message {
        received_message(retry_properties(copy), &copy.kind, copy.body.as_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ports::queue::RetryMark;

    #[test]
    fn a_retry_is_received_with_the_properties_of_its_original_and_its_mark() {
        let original = BasicProperties::default()
            .with_message_id("m-1".into())
            .with_correlation_id("c-1".into())
            .with_type("allocate".into());
        let copy = DueRetry {
            id: 7,
            generation: 3,
            queue: "orders".into(),
            message_id: Some("m-1".into()),
            kind: "allocate".into(),
            body: b"{}".to_vec(),
            original: serde_json::to_vec(&original).unwrap(),
            edited: false,
            secret: Uuid::from_u128(5),
        };
        let message = RabbitRetryDelivery.delivered(&copy);
        assert_eq!((message.kind.as_str(), message.message_id.as_deref()), ("allocate", Some("m-1")));
        assert_eq!((message.correlation_id.as_deref(), &message.body[..]), (Some("c-1"), &b"{}"[..]));
        let mark = RetryMark { failed_message_id: 7, generation: 3, secret: copy.secret };
        assert_eq!(message.retry, Some(mark));
        assert!(message.header_bytes > 0);
    }
}
