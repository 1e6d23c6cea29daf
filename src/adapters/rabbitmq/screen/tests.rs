use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use proptest::{collection::vec, prelude::*};

use super::{super::stored_properties::encode, *};

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1], &size[..], payload, &[FRAME_END]].concat()
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn deliver(tag: u64, routing_key: &[u8]) -> Vec<u8> {
    let parts =
        [&DELIVER[..], &short(b"ctag"), &tag.to_be_bytes(), &[0], &short(b"exchange"), &short(routing_key)];
    frame(METHOD, &parts.concat())
}

fn header(properties: &[u8]) -> Vec<u8> {
    frame(HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4], properties].concat())
}

/// Properties with only this application id.
fn app_id(bytes: &[u8]) -> Vec<u8> {
    [&[0, 8], &short(bytes)[..]].concat()
}

/// Screens the input in pieces of a size.
fn screened(input: &[u8], size: usize) -> (Vec<u8>, Undecodable) {
    let undecodable = Undecodable::default();
    let (mut screen, mut output) = (FrameScreen::new(undecodable.clone()), Vec::new());
    input.chunks(size).for_each(|piece| screen.screen(piece, &mut output));
    (output, undecodable)
}

#[test]
fn only_deliveries_that_cannot_be_decoded_are_replaced() {
    let body = frame(3, b"body");
    let good = [deliver(1, b"allocate"), header(&app_id("é".as_bytes())), body.clone()].concat();
    let bad_properties = [deliver(2, b"allocate"), header(&app_id(b"\xff\xfe")), body.clone()].concat();
    let bad_key = [deliver(3, b"\xff"), header(&app_id(b"a")), body.clone()].concat();
    let last = [deliver(4, b""), header(&[0, 0]), body.clone()].concat();
    let input = [&good[..], &bad_properties, &bad_key, &frame(8, b""), &last].concat();
    let replaced_properties = [deliver(2, b"allocate"), header(&[0, 0]), body.clone()].concat();
    let no_key = [&DELIVER[..], &short(b"ctag"), &3_u64.to_be_bytes(), &[0, 0, 0]].concat();
    let replaced_key = [frame(METHOD, &no_key), header(&app_id(b"a")), body].concat();
    let expected = [&good[..], &replaced_properties, &replaced_key, &frame(8, b""), &last].concat();
    for size in [1, 2, 7, 8, 30, input.len()] {
        let (output, undecodable) = screened(&input, size);
        assert_eq!(output, expected, "in pieces of {size}");
        let taken: Vec<_> = (1..=4).filter(|tag| undecodable.take(*tag)).collect();
        assert_eq!(taken, [2, 3]);
        assert!(!undecodable.take(2), "it is forgotten");
    }
}

#[test]
fn what_is_no_frame_of_a_delivery_is_passed_on() {
    let large = frame(HEADER, &vec![0xff; MAX_EXAMINED]);
    for input in [&b"AMQP\0\0\x09\x01 and more"[..], &large, &frame(METHOD, b""), &frame(HEADER, &[0xff; 5])]
    {
        assert_eq!(screened(input, 5).0, input);
    }
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

#[test]
fn usual_properties_need_no_decoder() {
    let inner = table([("list", AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::LongInt(1)].into()))]);
    let headers = table([
        ("text", AMQPValue::LongString("text".into())),
        ("number", AMQPValue::LongLongInt(-1)),
        ("flag", AMQPValue::Boolean(true)),
        ("inner", AMQPValue::FieldTable(inner)),
    ]);
    let all = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(1)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("1".into())
        .with_message_id("m".into())
        .with_timestamp(1)
        .with_type("allocate".into())
        .with_user_id("u".into())
        .with_app_id("a".into())
        .with_cluster_id("c".into());
    assert!(is_plain(&encode(&all)).is_some());
    assert!(is_plain(&encode(&BasicProperties::default())).is_some());
}

#[test]
fn unusual_properties_that_can_be_decoded_are_kept() {
    let deep = (0..20).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldTable(table([("inner", inner)])));
    for value in [
        deep,
        AMQPValue::ShortInt(1),
        AMQPValue::DecimalValue(lapin::types::DecimalValue { scale: 1, value: 2 }),
    ] {
        let properties = encode(&BasicProperties::default().with_headers(table([("h", value)])));
        assert!(is_plain(&properties).is_none() && is_decodable(&properties), "{properties:?}");
    }
}

#[test]
fn every_short_string_may_make_properties_undecodable() {
    for flag in (2..16).map(|bit| 1_u16 << bit) {
        let is_short = matches!(KINDS[flag.leading_zeros() as usize], Kind::Short);
        let properties = [&flag.to_be_bytes()[..], &short(b"\xff\xfe")].concat();
        assert!(!is_short || !is_decodable(&properties), "flag {flag:#x}");
    }
    let key = [&[0x20, 0][..], &[0, 0, 0, 3], b"\x01\xffV"].concat();
    assert!(!is_decodable(&key), "the name of a header");
}

proptest! {
    /// The short check never accepts what the client library refuses.
    #[test]
    fn plain_properties_can_be_decoded(
        flags in any::<u16>(),
        rest in vec(prop_oneof![Just(0), Just(1), Just(b'S'), Just(b'F'), Just(b'A'), Just(b't'), any::<u8>()], 0..40),
    ) {
        let properties = [&flags.to_be_bytes()[..], &rest].concat();
        if is_plain(&properties).is_some() {
            prop_assert!(parse_properties(&properties[..]).is_ok_and(|(rest, _)| rest.is_empty()));
        }
    }
}
