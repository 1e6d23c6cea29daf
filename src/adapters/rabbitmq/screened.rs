//! A connection whose frames are screened before the client library reads them.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Runtime,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::{
    io::{AsyncRead, AsyncWrite},
    stream::Stream,
};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    uri::AMQPUri,
};

use super::{
    screen::{FrameScreen, Undecodable},
    throttle::{Throttled, ThrottledRuntime},
};

/// The bytes that are read at once.
const CHUNK: usize = 32 * 1024;

/// A stream of screened frames.
#[derive(Debug)]
pub(super) struct Screened<S> {
    inner: S,
    screen: FrameScreen,
    chunk: Box<[u8]>,
    /// Bytes that may be read, of which the first are read already.
    ready: Vec<u8>,
    read: usize,
}

impl<S> Screened<S> {
    fn new(inner: S, undecodable: Undecodable) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { inner, screen: FrameScreen::new(undecodable), chunk, ready: Vec::new(), read: 0 }
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let ready = &self.ready[self.read..];
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.read += count;
        if self.read == self.ready.len() {
            self.ready.clear();
            self.read = 0;
        }
        count
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let count = ready!(Pin::new(&mut this.inner).poll_read(context, &mut this.chunk))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.screen.screen(&this.chunk[..count], &mut this.ready);
        }
        Poll::Ready(Ok(this.take(buffer)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
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

/// Connects with throttled, screened frames. The client library sees the connection as one without TLS: its frames can be
/// screened only after they are decrypted.
pub(super) async fn connect(
    node: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
    throttled: ThrottledRuntime,
    undecodable: Undecodable,
) -> Result<Connection, lapin::Error> {
    let runtime =
        Runtime::new(ScreenedRuntime { throttled: throttled.clone(), undecodable: undecodable.clone() });
    let open = async move |node: AMQPUri, _: Runtime<ScreenedRuntime>| {
        let throttled = Runtime::new(throttled.clone());
        let stream = node.connect_with_config_async(tls.as_ref(), &throttled).await?;
        Ok(AsyncTcpStream::Plain(Screened::new(stream, undecodable.clone())))
    };
    Connection::connector(node, runtime, open, properties).await
}

/// The runtime of the client library, with screened connections.
#[derive(Clone, Debug)]
struct ScreenedRuntime {
    throttled: ThrottledRuntime,
    undecodable: Undecodable,
}

impl RuntimeKit for ScreenedRuntime {}

impl Executor for ScreenedRuntime {
    type Task<T: Send + 'static> = <ThrottledRuntime as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.throttled.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.throttled.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.throttled.spawn_blocking(work)
    }
}

impl Reactor for ScreenedRuntime {
    type TcpStream = Screened<AsyncTcpStream<Throttled<<async_rs::Tokio as Reactor>::TcpStream>>>;
    type Sleep = <ThrottledRuntime as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.throttled.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.throttled.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.throttled.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, undecodable) = (self.throttled.tcp_connect_addr(address), self.undecodable.clone());
        async move { Ok(Screened::new(AsyncTcpStream::Plain(connecting.await?), undecodable)) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::io::{AsyncReadExt as _, Cursor};

    use super::*;

    #[tokio::test]
    async fn screened_bytes_are_read_in_pieces_of_any_size() {
        let frames =
            [3, 0, 1, 0, 0, 0, 4, b'b', b'o', b'd', b'y', 0xce, 8, 0, 0, 0, 0, 0, 0, 0xce].repeat(5000);
        for size in [1, 7, 100_000] {
            let mut stream = Screened::new(Cursor::new(frames.clone()), Undecodable::default());
            let (mut all, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                let count = stream.read(&mut piece).await.unwrap();
                if count == 0 {
                    break;
                }
                all.extend_from_slice(&piece[..count]);
            }
            assert!(all == frames, "in pieces of {size}");
        }
    }
}
