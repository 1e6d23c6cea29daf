//! The properties of a message as they are stored, in AMQP's own encoding: every value of every type is kept.

use cookie_factory::gen_simple;
use lapin::{
    BasicProperties,
    protocol::basic::{gen_properties, parse_properties},
};

/// Encodes properties.
pub(super) fn encode(properties: &BasicProperties) -> Vec<u8> {
    // Writing to memory does not fail.
    gen_simple(gen_properties(properties), Vec::new()).unwrap_or_default()
}

/// Decodes properties, also those that an earlier version stored as JSON. No properties if the bytes are invalid.
pub(super) fn decode(bytes: &[u8]) -> BasicProperties {
    // In AMQP these two bytes would be flags that do not exist.
    if bytes.starts_with(b"{\"") {
        return serde_json::from_slice(bytes).unwrap_or_default();
    }
    parse_properties(bytes).map(|(_, properties)| properties).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;

    #[test]
    fn every_value_is_kept() {
        let mut headers = FieldTable::default();
        headers.insert("not-a-number".into(), AMQPValue::Double(f64::NAN));
        headers.insert("infinite".into(), AMQPValue::Float(f32::INFINITY));
        headers.insert("bytes".into(), AMQPValue::ByteArray(vec![0, 255].into()));
        headers.insert("text".into(), AMQPValue::LongString("é".into()));
        let properties = BasicProperties::default().with_message_id("m-1".into()).with_headers(headers);
        let stored = encode(&properties);
        // NaN is not equal to itself.
        assert_eq!(encode(&decode(&stored)), stored);
        assert_eq!(decode(&stored).message_id(), properties.message_id());
    }

    #[test]
    fn deeply_nested_headers_are_kept() {
        let deep = (0..90).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
        let mut headers = FieldTable::default();
        headers.insert("deep".into(), deep);
        let properties = BasicProperties::default().with_app_id("app".into()).with_headers(headers);
        assert_eq!(decode(&encode(&properties)), properties);
    }

    #[test]
    fn json_of_an_earlier_version_is_read() {
        let properties = BasicProperties::default().with_message_id("m-1".into()).with_delivery_mode(2);
        let stored = serde_json::to_vec(&properties).unwrap();
        assert_eq!(decode(&stored), properties);
    }

    #[test]
    fn invalid_bytes_are_no_properties() {
        for bytes in [&b""[..], b"{\"", b"\xff\xff", b"not properties"] {
            assert_eq!(decode(bytes), BasicProperties::default(), "{bytes:?}");
        }
    }
}
