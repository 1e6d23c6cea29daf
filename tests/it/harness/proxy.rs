//! A TCP proxy to a server whose connections can be reset, frozen, dropped and refused, without effect on other clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};
use url::Url;

/// The current behaviour of the proxy.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// New connections are refused.
    refuses: bool,
    /// Nothing is forwarded, not even the end of a connection.
    frozen: bool,
    /// The number of calls of [`Proxy::cut`].
    cuts: u64,
    /// The number of calls of [`Proxy::drop_data`].
    drops: u64,
}

/// A proxy on a free port.
pub(crate) struct Proxy {
    url: String,
    mode: watch::Sender<Mode>,
    connection_attempts: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to the server of a URL; `default_port` is for a URL without a port.
    pub(crate) async fn to(url: &str, default_port: u16) -> Self {
        Self::listen("127.0.0.1", url, default_port).await
    }

    /// The same with an IPv6 address.
    pub(crate) async fn on_ipv6_to(url: &str, default_port: u16) -> Self {
        Self::listen("[::1]", url, default_port).await
    }

    async fn listen(host: &str, url: &str, default_port: u16) -> Self {
        let mut url = Url::parse(url).expect("the URL is valid");
        let server = url.host_str().expect("the URL has a host").to_owned();
        let upstream = (server, url.port().unwrap_or(default_port));
        let listener = TcpListener::bind(format!("{host}:0")).await.expect("there is a free port");
        let address: SocketAddr = listener.local_addr().expect("a listener has an address");
        url.set_host(Some(host)).expect("the URL can name another host");
        url.set_port(Some(address.port())).expect("the URL can name another port");
        let (mode, watched) = watch::channel(Mode::default());
        let connection_attempts = Arc::<AtomicUsize>::default();
        let accepting = tokio::spawn(accept(listener, upstream, watched, connection_attempts.clone()));
        Self { url: url.into(), mode, connection_attempts, accepting }
    }

    /// The URL of the server through this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The number of connection attempts, including refused ones.
    pub(crate) fn connection_attempts(&self) -> usize {
        self.connection_attempts.load(Ordering::Relaxed)
    }

    /// Resets every connection.
    pub(crate) fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Refuses new connections, or accepts them again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.mode.send_modify(|mode| mode.refuses = refuses);
    }

    /// Keeps every connection open and forwards nothing.
    pub(crate) fn freeze(&self) {
        self.mode.send_modify(|mode| mode.frozen = true);
    }

    /// Drops all further data of the present connections, without an error for either side. New connections are forwarded,
    /// unless the proxy is frozen.
    pub(crate) fn drop_data(&self) {
        self.mode.send_modify(|mode| mode.drops += 1);
    }

    /// Ends the freeze; data that was sent meanwhile is forwarded.
    pub(crate) fn thaw(&self) {
        self.mode.send_modify(|mode| mode.frozen = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: (String, u16),
    mode: watch::Receiver<Mode>,
    connection_attempts: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        connection_attempts.fetch_add(1, Ordering::Relaxed);
        if !mode.borrow().refuses {
            tokio::spawn(link(client, upstream.clone(), mode.clone()));
        }
    }
}

/// Forwards in both directions until one side closes the connection or the proxy is cut.
async fn link(mut client: TcpStream, upstream: (String, u16), mut mode: watch::Receiver<Mode>) {
    let Mode { cuts, drops, .. } = *mode.borrow();
    let Ok(mut server) = TcpStream::connect((upstream.0.as_str(), upstream.1)).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let cut = tokio::select! {
        () = pump(from_client, to_server, mode.clone(), drops) => false,
        () = pump(from_server, to_client, mode.clone(), drops) => false,
        () = until(&mut mode, |mode| mode.cuts > cuts) => true,
    };
    if cut {
        // A reset, as after a crash or from a firewall.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut mode: watch::Receiver<Mode>, drops: u64) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        until(&mut mode, |mode| !mode.frozen).await;
        let Ok(length @ 1..) = read else { return };
        let lost = mode.borrow().drops > drops;
        if !lost && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn until(mode: &mut watch::Receiver<Mode>, holds: impl FnMut(&Mode) -> bool) {
    let _ = mode.wait_for(holds).await;
}
