//! Reads request bodies: each within its limit, and all of them together within a share of the memory.

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// Up to this multiple of its limit, a body that is too large is read and dropped: a client that is still writing would not
/// read the response.
const DRAIN_FACTOR: usize = 64;
/// The unit in which memory is reserved, in bytes.
const UNIT: usize = 1024;

/// The memory for the bodies of all requests that are being read or processed.
#[derive(Debug)]
pub(super) struct BodyMemory(Semaphore);

/// A body. Its memory is reserved until this is dropped.
#[derive(Debug)]
pub(super) struct RequestBody<'a> {
    pub(super) bytes: Vec<u8>,
    _reserved: SemaphorePermit<'a>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It has more bytes than are allowed.
    TooLarge,
    /// The client stopped before its end.
    Incomplete,
    /// It was not received before the deadline.
    TimedOut,
    /// The bodies of other requests have the memory.
    OutOfMemory,
}

impl BodyMemory {
    /// Memory of this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Semaphore::new((bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS)))
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn read(
        &self,
        body: Body,
        limit: usize,
        deadline: Instant,
    ) -> Result<RequestBody<'_>, BodyError> {
        let read = self.read_stream(body.into_data_stream(), limit);
        timeout_at(deadline, read).await.map_err(|_| BodyError::TimedOut)?
    }

    /// Memory is reserved as parts arrive: a client that sends nothing has none. No request waits for memory, because two
    /// that have a part of theirs could wait for each other.
    async fn read_stream(
        &self,
        mut body: BodyDataStream,
        limit: usize,
    ) -> Result<RequestBody<'_>, BodyError> {
        let mut reserved = self.0.try_acquire().map_err(|_| BodyError::OutOfMemory)?;
        let (mut bytes, mut dropped) = (Vec::new(), 0);
        while let Some(part) = body.next().await {
            let part = part.map_err(|_| BodyError::Incomplete)?;
            let length = bytes.len() + part.len();
            if dropped > 0 || length > limit {
                dropped += length;
                bytes = Vec::new();
                if dropped > DRAIN_FACTOR * limit {
                    break;
                }
                continue;
            }
            let missing = length.div_ceil(UNIT).saturating_sub(reserved.num_permits());
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            reserved.merge(self.0.try_acquire_many(missing).map_err(|_| BodyError::OutOfMemory)?);
            bytes.extend_from_slice(&part);
        }
        if dropped > 0 { Err(BodyError::TooLarge) } else { Ok(RequestBody { bytes, _reserved: reserved }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn body(parts: &[usize]) -> Body {
        let parts: Vec<_> = parts.iter().map(|size| Ok::<_, std::io::Error>(vec![b'x'; *size])).collect();
        Body::from_stream(stream::iter(parts))
    }

    async fn read<'a>(memory: &'a BodyMemory, parts: &[usize]) -> Result<RequestBody<'a>, BodyError> {
        memory.read(body(parts), 4 * UNIT, Instant::now() + std::time::Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_read_and_a_larger_one_is_not() {
        let memory = BodyMemory::new(100 * UNIT);
        for parts in [&[][..], &[10], &[UNIT, UNIT, 2 * UNIT]] {
            let body = read(&memory, parts).await.map(|body| body.bytes.len());
            assert_eq!(body, Ok(parts.iter().sum()));
        }
        for parts in [&[4 * UNIT + 1][..], &[4 * UNIT, 1], &[4 * UNIT; 1000]] {
            assert_eq!(read(&memory, parts).await.map(|_| ()), Err(BodyError::TooLarge));
        }
    }

    #[tokio::test]
    async fn bodies_together_stay_within_the_memory() {
        let memory = BodyMemory::new(8 * UNIT);
        let first = read(&memory, &[4 * UNIT]).await;
        let second = read(&memory, &[3 * UNIT]).await;
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(read(&memory, &[UNIT + 1]).await.map(|_| ()), Err(BodyError::OutOfMemory));
        assert!(read(&memory, &[UNIT]).await.is_ok(), "a small one still fits");
        drop(second);
        assert!(read(&memory, &[4 * UNIT]).await.is_ok(), "memory is free again after a request");
    }
}
