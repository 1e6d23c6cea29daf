//! A TCP proxy in front of a server. It can cut, freeze and delay connections, also at an exact message.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
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

use crate::wire::{Direction, WireEvent, WireProtocol};

/// The current behaviour.
#[derive(Clone, Copy, Debug, Default)]
struct ProxyMode {
    /// New connections are refused.
    refuse_connections: bool,
    /// Nothing is forwarded, not even the end of a connection.
    frozen: bool,
    /// The number of times that all connections were cut.
    cuts: u64,
    /// The delay of everything that is forwarded.
    delay: Duration,
}

/// Where, relative to a message, the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutPoint {
    /// The message is not forwarded.
    Before,
    /// Half of the message is forwarded.
    Inside,
    /// The message is forwarded, and nothing after it.
    After,
    /// The message is not forwarded, and neither is anything else; all connections stay open.
    Hold,
}

#[derive(Clone, Copy, Debug)]
struct ArmedCut {
    event: WireEvent,
    /// Messages of this kind that are forwarded first.
    remaining: u32,
    cut: CutPoint,
}

struct ProxyControl {
    mode: watch::Sender<ProxyMode>,
    armed_cut: Mutex<Option<ArmedCut>>,
    /// Bytes that are still forwarded to the server; the cut may be within a message.
    bytes_until_cut: Mutex<Option<usize>>,
    cuts_made: AtomicU32,
    accepted: AtomicU32,
}

impl ProxyControl {
    /// Whether to cut at this message. An armed cut happens once.
    fn cut_at(&self, event: Option<WireEvent>) -> Option<CutPoint> {
        let mut armed_cut = self.armed_cut.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = armed_cut.as_mut().filter(|armed| Some(armed.event) == event)?;
        if armed.remaining > 0 {
            armed.remaining -= 1;
            return None;
        }
        self.cuts_made.fetch_add(1, Ordering::SeqCst);
        armed_cut.take().map(|armed| armed.cut)
    }

    /// How many of `count` bytes are forwarded before the cut; `None` without a cut.
    fn bytes_before_cut(&self, direction: Direction, count: usize) -> Option<usize> {
        let mut remaining = self.bytes_until_cut.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = (*remaining).filter(|_| direction == Direction::ToServer)?;
        if count < limit {
            *remaining = Some(limit - count);
            return None;
        }
        *remaining = None;
        self.cuts_made.fetch_add(1, Ordering::SeqCst);
        Some(limit)
    }
}

/// Listens on a port of its own and forwards to a server.
pub(crate) struct Proxy {
    url: String,
    control: Arc<ProxyControl>,
    accept_task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy for the server of a URL.
    pub(crate) async fn start(url: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url)?;
        let protocol = if url.scheme() == "amqp" { WireProtocol::Amqp } else { WireProtocol::Postgres };
        let port = url.port().context("the URL must name a port")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy_port = listener.local_addr()?.port();
        url.set_port(Some(proxy_port)).map_err(|()| anyhow::anyhow!("the URL must have a host"))?;
        let control = Arc::new(ProxyControl {
            mode: watch::channel(ProxyMode::default()).0,
            armed_cut: Mutex::new(None),
            bytes_until_cut: Mutex::new(None),
            cuts_made: AtomicU32::new(0),
            accepted: AtomicU32::new(0),
        });
        let server_address = SocketAddr::from(([127, 0, 0, 1], port));
        let accept_task =
            tokio::spawn(accept_connections(listener, server_address, protocol, control.clone()));
        Ok(Self { url: url.into(), control, accept_task })
    }

    /// The server's URL through this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Arms a cut of one connection at the message after `after` others of its kind.
    pub(crate) fn arm_cut(&self, cut: CutPoint, event: WireEvent, after: u32) {
        let mut armed_cut = self.control.armed_cut.lock().unwrap_or_else(PoisonError::into_inner);
        *armed_cut = Some(ArmedCut { event, remaining: after, cut });
    }

    /// Cuts the connection that carries the n-th byte to the server, counted over all connections from now on.
    pub(crate) fn cut_after(&self, bytes: usize) {
        *self.control.bytes_until_cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// The number of armed cuts that happened.
    pub(crate) fn cuts_made(&self) -> u32 {
        self.control.cuts_made.load(Ordering::SeqCst)
    }

    /// The number of accepted connections.
    pub(crate) fn accepted_connections(&self) -> u32 {
        self.control.accepted.load(Ordering::SeqCst)
    }

    /// Resets every open connection.
    pub(crate) fn cut(&self) {
        self.control.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// From now on new connections are refused, or accepted again.
    pub(crate) fn refuse_connections(&self, refuse_connections: bool) {
        self.control.mode.send_modify(|mode| mode.refuse_connections = refuse_connections);
    }

    /// Keeps every connection open and forwards nothing, or forwards again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.control.mode.send_modify(|mode| mode.frozen = frozen);
    }

    /// From now on everything is delayed by this time.
    pub(crate) fn delay(&self, delay: Duration) {
        self.control.mode.send_modify(|mode| mode.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept_task.abort();
        self.cut();
    }
}

async fn accept_connections(
    listener: TcpListener,
    server_address: SocketAddr,
    protocol: WireProtocol,
    control: Arc<ProxyControl>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if control.mode.borrow().refuse_connections {
            let _ = client.set_zero_linger();
        } else {
            control.accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(forward_connection(client, server_address, protocol, control.clone()));
        }
    }
}

/// Forwards in both directions until one side closes or the connection is cut.
async fn forward_connection(
    mut client: TcpStream,
    server_address: SocketAddr,
    protocol: WireProtocol,
    control: Arc<ProxyControl>,
) {
    let mut mode = control.mode.subscribe();
    let cuts = mode.borrow().cuts;
    let Ok(mut server) = TcpStream::connect(server_address).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let direction_state = |direction| DirectionState {
        protocol,
        direction,
        control: &control,
        buffered: Vec::new(),
        first: true,
    };
    let cut = tokio::select! {
        cut = forward(from_client, to_server, direction_state(Direction::ToServer)) => cut,
        cut = forward(from_server, to_client, direction_state(Direction::ToClient)) => cut,
        () = wait_for_mode(&mut mode, |mode| mode.cuts > cuts) => true,
    };
    if cut {
        // A reset, as after a crash or from a firewall: a cut must not look like an orderly close.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// One direction of a connection.
struct DirectionState<'a> {
    protocol: WireProtocol,
    direction: Direction,
    control: &'a ProxyControl,
    /// The start of an incomplete message.
    buffered: Vec<u8>,
    first: bool,
}

impl DirectionState<'_> {
    /// The bytes to forward, and whether the connection is cut after them.
    fn forwardable(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.buffered.extend_from_slice(bytes);
        let mut output = Vec::with_capacity(self.buffered.len());
        while let Some(length) = self.protocol.message_length(self.direction, self.first, &self.buffered) {
            self.first = false;
            let message: Vec<u8> = self.buffered.drain(..length).collect();
            match self.control.cut_at(self.protocol.event(self.direction, &message)) {
                None => output.extend(message),
                Some(CutPoint::Before) => return (output, true),
                Some(CutPoint::Hold) => {
                    self.control.mode.send_modify(|mode| mode.frozen = true);
                    return (output, false);
                }
                Some(CutPoint::Inside) => {
                    output.extend(&message[..message.len() / 2]);
                    return (output, true);
                }
                Some(CutPoint::After) => {
                    output.extend(message);
                    return (output, true);
                }
            }
        }
        (output, false)
    }
}

/// True if the connection is to be cut, false if one side closed it.
async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: DirectionState<'_>) -> bool {
    let mut mode = state.control.mode.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        wait_for_mode(&mut mode, |mode| !mode.frozen).await;
        let delay = mode.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let Ok(length @ 1..) = read else { return false };
        let (mut output, mut cut) = state.forwardable(&buffer[..length]);
        if let Some(last) = state.control.bytes_before_cut(state.direction, output.len()) {
            output.truncate(last);
            cut = true;
        }
        if to.write_all(&output).await.is_err() {
            return false;
        }
        if cut {
            return true;
        }
    }
}

async fn wait_for_mode(mode: &mut watch::Receiver<ProxyMode>, holds: impl FnMut(&ProxyMode) -> bool) {
    let _ = mode.wait_for(holds).await;
}
