//! Just enough of two protocols to know where a message begins and which ones matter.

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What is spoken on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Amqp,
    Postgres,
}

/// A message of which the loss matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A client acknowledges deliveries.
    Acknowledgement,
    /// A client publishes.
    Publication,
    /// Part of the body of what it publishes.
    Body,
    /// The broker confirms publications.
    Confirmation,
    /// A client says COMMIT.
    Commit,
    /// The database says that it has committed.
    Committed,
}

const AMQP_GREETING: usize = 8;
const METHOD_FRAME: u8 = 1;
const BODY_FRAME: u8 = 3;
const BASIC: [u8; 2] = [0, 60];
const PUBLISH: [u8; 2] = [0, 40];
const ACK: [u8; 2] = [0, 80];

impl Dialect {
    /// The length of the first message in `bytes`, if it is complete; `first` if it is the first of its direction.
    pub(crate) fn unit(self, direction: Direction, first: bool, bytes: &[u8]) -> Option<usize> {
        let greeting = first && direction == Direction::ToServer;
        let length = match self {
            Self::Amqp if greeting => AMQP_GREETING,
            // Type, channel, size; the payload; an end mark.
            Self::Amqp => 7 + number(bytes, 3)? + 1,
            // The startup message has no type.
            Self::Postgres if greeting => number(bytes, 0)?,
            Self::Postgres => 1 + number(bytes, 1)?,
        };
        (bytes.len() >= length).then_some(length)
    }

    /// What a complete message is, if it matters.
    pub(crate) fn moment(self, direction: Direction, unit: &[u8]) -> Option<Moment> {
        match self {
            Self::Amqp => amqp_moment(direction, unit),
            Self::Postgres => postgres_moment(direction, unit),
        }
    }
}

fn amqp_moment(direction: Direction, frame: &[u8]) -> Option<Moment> {
    let kind = *frame.first()?;
    if kind == BODY_FRAME && direction == Direction::ToServer {
        return Some(Moment::Body);
    }
    if kind != METHOD_FRAME || frame.get(7..9)? != BASIC {
        return None;
    }
    let method = frame.get(9..11)?;
    match direction {
        Direction::ToServer if method == PUBLISH => Some(Moment::Publication),
        Direction::ToServer if method == ACK => Some(Moment::Acknowledgement),
        Direction::ToClient if method == ACK => Some(Moment::Confirmation),
        _ => None,
    }
}

fn postgres_moment(direction: Direction, message: &[u8]) -> Option<Moment> {
    let text = message.get(5..)?;
    let is_commit = text.eq_ignore_ascii_case(b"commit\0");
    match (direction, message.first()?) {
        (Direction::ToServer, b'Q') if is_commit => Some(Moment::Commit),
        (Direction::ToClient, b'C') if is_commit => Some(Moment::Committed),
        _ => None,
    }
}

/// The four bytes from `at` on, as a length.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(four)).ok()
}
