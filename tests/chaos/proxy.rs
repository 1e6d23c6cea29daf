//! A link to a server that can be cut, frozen and slowed down, and that can cut itself at an exact message.

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

use crate::protocol::{Dialect, Direction, Moment};

/// How the link behaves at the moment.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Newcomers are turned away.
    refuses: bool,
    /// Nothing gets through, not even the news that one side has hung up.
    frozen: bool,
    /// How often everything was cut.
    cuts: u64,
    /// How much later everything arrives.
    delay: Duration,
}

/// Where, seen from a message, the link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It does not arrive.
    Before,
    /// Half of it arrives.
    Inside,
    /// It arrives, and nothing after it.
    After,
}

#[derive(Clone, Copy, Debug)]
struct Trap {
    moment: Moment,
    /// So many are let through first.
    left: u32,
    cut: Cut,
}

struct Control {
    mode: watch::Sender<Mode>,
    trap: Mutex<Option<Trap>>,
    /// So many bytes still go to the server, wherever in a message that ends.
    bytes_left: Mutex<Option<usize>>,
    sprung: AtomicU32,
    accepted: AtomicU32,
}

impl Control {
    /// Whether the link is to be cut here; a trap works once.
    fn judge(&self, moment: Option<Moment>) -> Option<Cut> {
        let mut armed = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let trap = armed.as_mut().filter(|trap| Some(trap.moment) == moment)?;
        if trap.left > 0 {
            trap.left -= 1;
            return None;
        }
        self.sprung.fetch_add(1, Ordering::SeqCst);
        armed.take().map(|trap| trap.cut)
    }
}

impl Control {
    /// How many of so many bytes are passed on before the link is cut; none if it is not cut here.
    fn last_bytes(&self, direction: Direction, count: usize) -> Option<usize> {
        let mut left = self.bytes_left.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = (*left).filter(|_| direction == Direction::ToServer)?;
        if count < limit {
            *left = Some(limit - count);
            return None;
        }
        *left = None;
        self.sprung.fetch_add(1, Ordering::SeqCst);
        Some(limit)
    }
}

/// Listens on a port of its own and passes on to a server what it hears.
pub(crate) struct Proxy {
    url: String,
    control: Arc<Control>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A link to the server that a URL names.
    pub(crate) async fn to(url: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url)?;
        let dialect = if url.scheme() == "amqp" { Dialect::Amqp } else { Dialect::Postgres };
        let port = url.port().context("our servers' URLs name their ports")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mine = listener.local_addr()?.port();
        url.set_port(Some(mine)).map_err(|()| anyhow::anyhow!("the URL has a port"))?;
        let control = Arc::new(Control {
            mode: watch::channel(Mode::default()).0,
            trap: Mutex::new(None),
            bytes_left: Mutex::new(None),
            sprung: AtomicU32::new(0),
            accepted: AtomicU32::new(0),
        });
        let upstream = SocketAddr::from(([127, 0, 0, 1], port));
        let accepting = tokio::spawn(accept(listener, upstream, dialect, control.clone()));
        Ok(Self { url: url.into(), control, accepting })
    }

    /// The server's URL by way of this link.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Cuts one connection at a message, after so many of its kind.
    pub(crate) fn trap(&self, cut: Cut, moment: Moment, after: u32) {
        let mut trap = self.control.trap.lock().unwrap_or_else(PoisonError::into_inner);
        *trap = Some(Trap { moment, left: after, cut });
    }

    /// Cuts the connection that carries this byte to the server, counted from now over all of them.
    pub(crate) fn cut_after(&self, bytes: usize) {
        *self.control.bytes_left.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// How many traps have worked.
    pub(crate) fn sprung(&self) -> u32 {
        self.control.sprung.load(Ordering::SeqCst)
    }

    /// How many connections were accepted.
    pub(crate) fn accepted(&self) -> u32 {
        self.control.accepted.load(Ordering::SeqCst)
    }

    /// Resets every connection there is.
    pub(crate) fn cut(&self) {
        self.control.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// From now on newcomers are turned away, or are welcome again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.control.mode.send_modify(|mode| mode.refuses = refuses);
    }

    /// Keeps every connection open and lets nothing through, or lets it through again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.control.mode.send_modify(|mode| mode.frozen = frozen);
    }

    /// From now on everything arrives so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.control.mode.send_modify(|mode| mode.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, dialect: Dialect, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if control.mode.borrow().refuses {
            let _ = client.set_zero_linger();
        } else {
            control.accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(link(client, upstream, dialect, control.clone()));
        }
    }
}

/// Passes on in both directions until one side hangs up or the link is cut.
async fn link(mut client: TcpStream, upstream: SocketAddr, dialect: Dialect, control: Arc<Control>) {
    let mut mode = control.mode.subscribe();
    let cuts = mode.borrow().cuts;
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let lane = |direction| Lane { dialect, direction, control: &control, pending: Vec::new(), first: true };
    let cut = tokio::select! {
        cut = pump(from_client, to_server, lane(Direction::ToServer)) => cut,
        cut = pump(from_server, to_client, lane(Direction::ToClient)) => cut,
        () = until(&mut mode, |mode| mode.cuts > cuts) => true,
    };
    if cut {
        // A reset, as after a crash or from a firewall; a cut link must not look like an orderly end.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// One direction of a connection.
struct Lane<'a> {
    dialect: Dialect,
    direction: Direction,
    control: &'a Control,
    /// The beginning of a message whose end has not come yet.
    pending: Vec<u8>,
    first: bool,
}

impl Lane<'_> {
    /// What of it goes on, message by message, and whether the link is cut behind it.
    fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.pending.extend_from_slice(bytes);
        let mut onward = Vec::with_capacity(self.pending.len());
        while let Some(length) = self.dialect.unit(self.direction, self.first, &self.pending) {
            self.first = false;
            let unit: Vec<u8> = self.pending.drain(..length).collect();
            match self.control.judge(self.dialect.moment(self.direction, &unit)) {
                None => onward.extend(unit),
                Some(Cut::Before) => return (onward, true),
                Some(Cut::Inside) => {
                    onward.extend(&unit[..unit.len() / 2]);
                    return (onward, true);
                }
                Some(Cut::After) => {
                    onward.extend(unit);
                    return (onward, true);
                }
            }
        }
        (onward, false)
    }
}

/// True if the link is to be cut, false if one side hung up.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut lane: Lane<'_>) -> bool {
    let mut mode = lane.control.mode.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        until(&mut mode, |mode| !mode.frozen).await;
        let delay = mode.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let Ok(length @ 1..) = read else { return false };
        let (mut onward, mut cut) = lane.pass(&buffer[..length]);
        if let Some(last) = lane.control.last_bytes(lane.direction, onward.len()) {
            onward.truncate(last);
            cut = true;
        }
        if to.write_all(&onward).await.is_err() {
            return false;
        }
        if cut {
            return true;
        }
    }
}

async fn until(mode: &mut watch::Receiver<Mode>, holds: impl FnMut(&Mode) -> bool) {
    let _ = mode.wait_for(holds).await;
}
