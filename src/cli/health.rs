//! `allocation health`: asks a process on this machine, for supervisors that run a program instead of a request.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{exit::ExitStatus, output};

/// A process that takes longer to answer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Health {
    /// Ask whether the process can do its work, not whether it must be restarted.
    #[arg(long)]
    ready: bool,
}

impl Health {
    /// Prints the answer. Not healthy is not a usage error: a supervisor restarts the process after some of them.
    pub(super) fn execute(&self, address: SocketAddr) -> anyhow::Result<ExitStatus> {
        let path = if self.ready { "/health/ready" } else { "/health/live" };
        let (status, body) = get(local(address), path)
            .with_context(|| format!("no health check at {address} (health.listen, or api.listen)"))?;
        output::line(body.trim_end());
        Ok(if status == "200" { ExitStatus::Success } else { ExitStatus::Incomplete })
    }
}

/// A server that listens on all addresses of the machine also listens on this one.
fn local(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The status and the body of the response.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let status = response.split(' ').nth(1).context("the response is not HTTP")?.to_owned();
    let (_, body) = response.split_once("\r\n\r\n").context("the response has no body")?;
    Ok((status, body.to_owned()))
}
