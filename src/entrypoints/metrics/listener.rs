//! The address of the metrics: the configured port, or one of the next nine if another process has it.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// The ports that are tried: several processes on one machine need no settings of their own.
const PORTS: u16 = 10;

/// Binds the first port that is free.
///
/// # Errors
/// All ports are taken, or the address can never be bound.
pub(super) async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let mut taken = io::ErrorKind::AddrInUse.into();
    for port in candidates(listen.port()) {
        match TcpListener::bind((listen.ip(), port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            bound => return bound,
        }
    }
    Err(taken)
}

/// Port 0 stands for any free port.
fn candidates(port: u16) -> impl Iterator<Item = u16> {
    let last = if port == 0 { 0 } else { port.saturating_add(PORTS - 1) };
    port..=last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_ports_are_tried() {
        assert_eq!(candidates(9464).collect::<Vec<_>>(), (9464..=9473).collect::<Vec<_>>());
        assert_eq!(candidates(65_530).collect::<Vec<_>>(), (65_530..=65_535).collect::<Vec<_>>());
        assert_eq!(candidates(0).collect::<Vec<_>>(), [0]);
    }
}
