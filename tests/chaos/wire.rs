//! The parts of AMQP and of the PostgreSQL protocol that are needed to find message boundaries and the relevant
//! messages.

/// The direction of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireProtocol {
    Amqp,
    Postgres,
}

/// A message whose loss is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireEvent {
    /// A client acknowledges deliveries.
    Acknowledge,
    /// A client publishes.
    Publish,
    /// Part of the body of a published message.
    PublishBody,
    /// The broker confirms publications.
    Confirm,
    /// A client sends COMMIT.
    Commit,
    /// The database reports the commit.
    Committed,
}

const AMQP_HEADER_LENGTH: usize = 8;
const METHOD_FRAME: u8 = 1;
const BODY_FRAME: u8 = 3;
const BASIC_CLASS: [u8; 2] = [0, 60];
const PUBLISH: [u8; 2] = [0, 40];
const ACK: [u8; 2] = [0, 80];

impl WireProtocol {
    /// The length of the first message in `bytes`, if it is complete; `first`: it is the first of its direction.
    pub(crate) fn message_length(self, direction: Direction, first: bool, bytes: &[u8]) -> Option<usize> {
        let is_startup = first && direction == Direction::ToServer;
        let length = match self {
            Self::Amqp if is_startup => AMQP_HEADER_LENGTH,
            // Type, channel, size; the payload; a frame-end octet.
            Self::Amqp => 7 + read_length(bytes, 3)? + 1,
            // The startup message has no type.
            Self::Postgres if is_startup => read_length(bytes, 0)?,
            Self::Postgres => 1 + read_length(bytes, 1)?,
        };
        (bytes.len() >= length).then_some(length)
    }

    /// The event of a complete message, if it is relevant.
    pub(crate) fn event(self, direction: Direction, message: &[u8]) -> Option<WireEvent> {
        match self {
            Self::Amqp => amqp_event(direction, message),
            Self::Postgres => postgres_event(direction, message),
        }
    }
}

fn amqp_event(direction: Direction, frame: &[u8]) -> Option<WireEvent> {
    let kind = *frame.first()?;
    if kind == BODY_FRAME && direction == Direction::ToServer {
        return Some(WireEvent::PublishBody);
    }
    if kind != METHOD_FRAME || frame.get(7..9)? != BASIC_CLASS {
        return None;
    }
    let method = frame.get(9..11)?;
    match direction {
        Direction::ToServer if method == PUBLISH => Some(WireEvent::Publish),
        Direction::ToServer if method == ACK => Some(WireEvent::Acknowledge),
        Direction::ToClient if method == ACK => Some(WireEvent::Confirm),
        _ => None,
    }
}

fn postgres_event(direction: Direction, message: &[u8]) -> Option<WireEvent> {
    let text = message.get(5..)?;
    let is_commit = text.eq_ignore_ascii_case(b"commit\0");
    match (direction, message.first()?) {
        (Direction::ToServer, b'Q') if is_commit => Some(WireEvent::Commit),
        (Direction::ToClient, b'C') if is_commit => Some(WireEvent::Committed),
        _ => None,
    }
}

/// The four bytes at `at` as a length.
fn read_length(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(four)).ok()
}
