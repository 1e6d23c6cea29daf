//! A connection that reads no more bytes than it is allowed to.
//!
//! The client library reads whatever the broker sends, and the broker limits deliveries by number only. Bytes that are not
//! read stay in the broker: this bounds the memory of this process without a change of the prefetch, which would return
//! messages in another order.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use async_trait::async_trait;
use futures_util::{
    io::{AsyncRead, AsyncWrite},
    stream::Stream,
    task::AtomicWaker,
};
use tokio::sync::Notify;

use crate::ports::queue::FlowControl;

/// The bytes that a connection may read. Clones are one allowance.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadAllowance(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    reader: AtomicWaker,
    exhausted: Notify,
}

impl ReadAllowance {
    pub(super) fn of(bytes: usize) -> Self {
        let allowance = Self::default();
        allowance.0.bytes.store(bytes, Ordering::Relaxed);
        allowance
    }

    /// The bytes that may be read now. Without any, the reader is woken up by the next allowance.
    fn poll_bytes(&self, context: &Context<'_>) -> Poll<usize> {
        let bytes = self.0.bytes.load(Ordering::Acquire);
        if bytes > 0 {
            return Poll::Ready(bytes);
        }
        self.0.reader.register(context.waker());
        // It may have been allowed before the waker was registered.
        match self.0.bytes.load(Ordering::Acquire) {
            0 => {
                self.0.exhausted.notify_one();
                Poll::Pending
            }
            bytes => Poll::Ready(bytes),
        }
    }

    fn use_up(&self, bytes: usize) {
        let remaining = |allowed: usize| Some(allowed.saturating_sub(bytes));
        let _ = self.0.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, remaining);
    }
}

#[async_trait]
impl FlowControl for ReadAllowance {
    fn allow(&self, bytes: usize) {
        let more = |allowed: usize| Some(allowed.saturating_add(bytes));
        let _ = self.0.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        self.0.reader.wake();
    }

    async fn exhausted(&self) {
        loop {
            self.0.exhausted.notified().await;
            if self.0.bytes.load(Ordering::Acquire) == 0 {
                return;
            }
        }
    }
}

/// A stream that reads within an allowance.
#[derive(Debug)]
pub(super) struct Throttled<S> {
    inner: S,
    allowance: ReadAllowance,
}

impl<S: AsyncRead + Unpin> AsyncRead for Throttled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = ready!(self.allowance.poll_bytes(context));
        let length = buffer.len().min(allowed);
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer[..length]));
        if let Ok(bytes) = read {
            self.allowance.use_up(bytes);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Throttled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

/// The runtime of the client library, with throttled connections.
#[derive(Clone, Debug)]
pub(super) struct ThrottledRuntime {
    tokio: Tokio,
    allowance: ReadAllowance,
}

impl ThrottledRuntime {
    pub(super) fn new(allowance: ReadAllowance) -> Self {
        Self { tokio: Tokio::current(), allowance }
    }
}

impl RuntimeKit for ThrottledRuntime {}

impl Executor for ThrottledRuntime {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for ThrottledRuntime {
    type TcpStream = Throttled<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, allowance) = (self.tokio.tcp_connect_addr(address), self.allowance.clone());
        async move { Ok(Throttled { inner: connecting.await?, allowance }) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::io::{AsyncReadExt as _, Cursor};

    use super::*;

    #[tokio::test]
    async fn no_more_bytes_are_read_than_allowed() {
        let allowance = ReadAllowance::of(3);
        let mut stream = Throttled { inner: Cursor::new(*b"0123456789"), allowance: allowance.clone() };
        let mut buffer = [0; 10];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 3);
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 10];
            let first = stream.read(&mut buffer).await.unwrap();
            (first, stream.read(&mut buffer).await.unwrap())
        });
        allowance.exhausted().await;
        assert!(!reading.is_finished());
        allowance.allow(5);
        allowance.exhausted().await;
        allowance.allow(100);
        assert_eq!(reading.await.unwrap(), (5, 2));
    }
}
