//! Finds the deliveries that the client library cannot decode, before it reads them.
//!
//! The client library takes every short string for UTF-8 and ends the connection if one is not, while AMQP and the broker
//! accept any bytes. Frames with such bytes are replaced by frames without them, and their deliveries are remembered.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use lapin::protocol::basic::parse_properties;

/// The bytes of a frame before its payload: type, channel and size.
const HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const FRAME_END: u8 = 0xce;
/// Class and method of `basic.deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Class, weight and body size, before the properties in a header frame.
const BEFORE_PROPERTIES: usize = 12;
/// A larger frame is not examined; the client library and the broker agree on a smaller maximum.
const MAX_EXAMINED: usize = 1024 * 1024;
/// Properties that are nested deeper are left to the client library's decoder.
const MAX_DEPTH: usize = 8;

/// The deliveries of a connection that cannot be decoded. Clones are one set.
#[derive(Clone, Debug, Default)]
pub(super) struct Undecodable(Arc<Tags>);

#[derive(Debug, Default)]
struct Tags {
    any: AtomicBool,
    tags: Mutex<BTreeSet<u64>>,
}

impl Undecodable {
    fn add(&self, tag: u64) {
        self.0.tags.lock().unwrap_or_else(PoisonError::into_inner).insert(tag);
        self.0.any.store(true, Ordering::Release);
    }

    /// Whether this delivery cannot be decoded; it is forgotten.
    pub(super) fn take(&self, tag: u64) -> bool {
        self.0.any.load(Ordering::Acquire)
            && self.0.tags.lock().unwrap_or_else(PoisonError::into_inner).remove(&tag)
    }
}

/// Examines the frames of a connection with one consumer.
#[derive(Debug, Default)]
pub(super) struct FrameScreen {
    /// The begin of a frame that is examined once it is complete.
    partial: Vec<u8>,
    /// The bytes of the current frame that are passed on.
    pass: usize,
    /// The delivery whose header frame is next.
    tag: u64,
    undecodable: Undecodable,
}

impl FrameScreen {
    /// A screen that adds to this set.
    pub(super) fn new(undecodable: Undecodable) -> Self {
        Self { undecodable, ..Self::default() }
    }

    /// Appends what the client library may read. A method or header frame is appended when it is complete.
    pub(super) fn screen(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            let missing = if self.pass > 0 {
                self.pass
            } else {
                self.frame_length().unwrap_or(HEAD) - self.partial.len()
            };
            let (now, rest) = input.split_at(missing.min(input.len()));
            input = rest;
            if self.pass > 0 {
                self.pass -= now.len();
                output.extend_from_slice(now);
                continue;
            }
            self.partial.extend_from_slice(now);
            match self.frame_length() {
                Some(length) if !self.is_examined(length) => {
                    self.pass = length - self.partial.len();
                    output.append(&mut self.partial);
                }
                Some(length) if length == self.partial.len() => {
                    let frame = mem::take(&mut self.partial);
                    self.examine(&frame, output);
                    self.partial = frame;
                    self.partial.clear();
                }
                _ => {}
            }
        }
    }

    /// The length of the current frame, once its head is complete.
    fn frame_length(&self) -> Option<usize> {
        let size = self.partial.get(3..HEAD)?.try_into().ok()?;
        Some(HEAD + usize::try_from(u32::from_be_bytes(size)).ok()? + 1)
    }

    fn is_examined(&self, length: usize) -> bool {
        matches!(self.partial[0], METHOD | HEADER) && length <= MAX_EXAMINED
    }

    fn examine(&mut self, frame: &[u8], output: &mut Vec<u8>) {
        let payload = &frame[HEAD..frame.len() - 1];
        let replacement = match frame[0] {
            METHOD => self.examine_method(payload),
            _ => examine_header(payload),
        };
        match replacement {
            None => output.extend_from_slice(frame),
            Some(payload) => {
                self.undecodable.add(self.tag);
                output.extend_from_slice(&frame[..3]);
                output.extend_from_slice(&u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
                output.extend_from_slice(&payload);
                output.push(FRAME_END);
            }
        }
    }

    /// A delivery without exchange and routing key, if one of them cannot be decoded.
    fn examine_method(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut rest = Bytes(payload.strip_prefix(&DELIVER)?);
        rest.short()?;
        self.tag = u64::from_be_bytes(rest.take(8)?.try_into().ok()?);
        rest.take(1)?;
        let begin = payload.len() - rest.0.len();
        let is_text = is_text(rest.short()?) && is_text(rest.short()?);
        (!is_text).then(|| [&payload[..begin], &[0, 0]].concat())
    }
}

/// A header without properties, if they cannot be decoded.
fn examine_header(payload: &[u8]) -> Option<Vec<u8>> {
    let (before, properties) = payload.split_at_checked(BEFORE_PROPERTIES)?;
    (!is_decodable(properties)).then(|| [before, &[0, 0]].concat())
}

/// Whether the client library can decode these properties.
fn is_decodable(properties: &[u8]) -> bool {
    // Its decoder takes several times as long.
    is_plain(properties).is_some() || parse_properties(properties).is_ok_and(|(rest, _)| rest.is_empty())
}

/// The properties in the order of their flags, from the highest bit; the last two bits are no properties.
const KINDS: [Kind; 14] = {
    use Kind::{Octet, Short, Table, Timestamp};
    [Short, Short, Table, Octet, Octet, Short, Short, Short, Short, Timestamp, Short, Short, Short, Short]
};

#[derive(Clone, Copy)]
enum Kind {
    Octet,
    Short,
    Table,
    Timestamp,
}

/// `Some` if the properties certainly can be decoded.
fn is_plain(properties: &[u8]) -> Option<()> {
    let mut bytes = Bytes(properties);
    let flags = u16::from_be_bytes(bytes.take(2)?.try_into().ok()?);
    if flags & 0b11 != 0 {
        return None;
    }
    for (number, kind) in KINDS.into_iter().enumerate() {
        if flags & (0x8000 >> number) == 0 {
            continue;
        }
        match kind {
            Kind::Octet => _ = bytes.take(1)?,
            Kind::Timestamp => _ = bytes.take(8)?,
            Kind::Short => is_text(bytes.short()?).then_some(())?,
            Kind::Table => is_plain_table(bytes.long()?, MAX_DEPTH)?,
        }
    }
    bytes.0.is_empty().then_some(())
}

fn is_plain_table(table: &[u8], depth: usize) -> Option<()> {
    let mut bytes = Bytes(table);
    while !bytes.0.is_empty() {
        is_text(bytes.short()?).then_some(())?;
        is_plain_value(&mut bytes, depth)?;
    }
    Some(())
}

fn is_plain_value(bytes: &mut Bytes<'_>, depth: usize) -> Option<()> {
    match bytes.take(1)?[0] {
        b't' | b'b' | b'B' => _ = bytes.take(1)?,
        b'I' | b'i' | b'f' => _ = bytes.take(4)?,
        b'l' | b'd' | b'T' => _ = bytes.take(8)?,
        b'S' | b'x' => _ = bytes.long()?,
        b'V' => {}
        b'F' => is_plain_table(bytes.long()?, depth.checked_sub(1)?)?,
        b'A' => {
            let depth = depth.checked_sub(1)?;
            let mut values = Bytes(bytes.long()?);
            while !values.0.is_empty() {
                is_plain_value(&mut values, depth)?;
            }
        }
        _ => return None,
    }
    Some(())
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// The bytes that are not read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A short string, or what is in a short string's place.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// A long string, a table or an array.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests;
