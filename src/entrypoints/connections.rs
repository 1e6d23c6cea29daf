//! Open connections. When all are in use, a new one replaces the connection that has been idle for longest.
//!
//! So clients that connect and send nothing cannot keep out others, or a health check.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{Request, service::Service};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The address of a client, or of the proxy in front of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The connections of a server. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    state: Arc<Mutex<State>>,
    freed: Arc<Notify>,
    max: usize,
}

#[derive(Default)]
struct State {
    open: usize,
    /// Connections without a request, the one that is idle for longest first.
    idle: BTreeMap<u64, CancellationToken>,
    next_key: u64,
}

impl State {
    fn add_idle(&mut self, closed: &CancellationToken) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.idle.insert(key, closed.clone());
        key
    }
}

/// An open connection, until it is dropped.
pub(super) struct OpenConnection {
    connections: Connections,
    /// Its key while it is idle.
    idle_key: Mutex<Option<u64>>,
    /// Cancelled when another connection replaces it.
    pub(super) replaced: CancellationToken,
}

impl Connections {
    /// At most `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self { state: Arc::default(), freed: Arc::default(), max }
    }

    /// Opens a connection. Waits only while all others are processing a request.
    pub(super) async fn open(&self) -> OpenConnection {
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.try_open() {
                return connection;
            }
            freed.await;
        }
    }

    fn try_open(&self) -> Option<OpenConnection> {
        let mut state = self.state();
        if state.open < self.max {
            state.open += 1;
        } else {
            state.idle.pop_first()?.1.cancel();
        }
        let replaced = CancellationToken::new();
        let idle_key = Mutex::new(Some(state.add_idle(&replaced)));
        drop(state);
        Some(OpenConnection { connections: self.clone(), idle_key, replaced })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    /// A request begins; false if the connection was replaced and is about to be closed.
    fn begin_request(&self) -> bool {
        let mut state = self.connections.state();
        let key = self.idle_key.lock().unwrap_or_else(PoisonError::into_inner).take();
        key.is_some_and(|key| state.idle.remove(&key).is_some())
    }

    fn end_request(&self) {
        let key = self.connections.state().add_idle(&self.replaced);
        *self.idle_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        self.connections.freed.notify_one();
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        if let Some(key) = self.idle_key.get_mut().unwrap_or_else(PoisonError::into_inner) {
            state.idle.remove(key);
        }
        if !self.replaced.is_cancelled() {
            state.open -= 1;
        }
        drop(state);
        self.connections.freed.notify_one();
    }
}

/// A service on one connection, which is not idle while it has a request.
pub(super) struct OnConnection<S> {
    pub(super) service: S,
    pub(super) connection: Arc<OpenConnection>,
    /// The client's address, which is added to each request.
    pub(super) peer: SocketAddr,
}

impl<S, B> Service<Request<B>> for OnConnection<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        if !self.connection.begin_request() {
            // The connection is closed before this is polled again; the request is not processed.
            return Box::pin(async { match std::future::pending::<Infallible>().await {} });
        }
        request.extensions_mut().insert(Peer(self.peer));
        let (response, connection) = (self.service.call(request), self.connection.clone());
        Box::pin(async move {
            let response = response.await;
            connection.end_request();
            response
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_connection_replaces_the_one_that_is_idle_for_longest() {
        let connections = Connections::new(2);
        let (first, second) = (connections.open().await, connections.open().await);
        assert!(first.begin_request());
        first.end_request();
        let third = connections.open().await;
        let replaced = [&first, &second, &third].map(|connection| connection.replaced.is_cancelled());
        assert_eq!(replaced, [false, true, false]);
        assert!(!second.begin_request(), "a replaced connection processes nothing");
    }

    #[tokio::test]
    async fn a_connection_with_a_request_is_not_replaced() {
        let connections = Connections::new(1);
        let first = connections.open().await;
        assert!(first.begin_request());
        assert!(connections.try_open().is_none());
        let second = connections.open();
        first.end_request();
        second.await;
        assert!(first.replaced.is_cancelled());
    }

    #[tokio::test]
    async fn a_closed_connection_makes_room() {
        let connections = Connections::new(1);
        for _ in 0..3 {
            let connection = connections.open().await;
            assert!(connection.begin_request());
        }
        let (first, second) = (connections.open().await, connections.open().await);
        drop((first, second));
        assert_eq!(connections.state().open, 0, "a replaced connection is counted once");
    }
}
