//! An HTTP client that sends any request, valid or not, and processes that serve it.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{DRAINS_WITHIN, Running, TestSystem, wait_until};

/// The content type of commands.
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");
/// The deadline for a response, also with many concurrent requests.
const RESPONDS_WITHIN: Duration = Duration::from_mins(1);

impl TestSystem {
    /// Starts a process with a free port and waits until it is ready. `roles` must contain `api`.
    pub(crate) async fn api(&self, roles: &str, environment: &[(&str, &str)]) -> (Running, Client) {
        let client = Client { address: free_address().await };
        let listen = client.address.to_string();
        let environment = [environment, &[("ALLOCATION__API__LISTEN", listen.as_str())]].concat();
        let process = self.start(&["run", "--only", roles], &environment);
        client.wait_until_ready().await;
        (process, client)
    }
}

/// An address of this machine that no server uses.
pub(crate) async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    listener.local_addr().expect("a listener has an address")
}

/// A client with a new connection for each request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: SocketAddr,
}

impl Client {
    /// A client of the server at an address.
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The address of the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process at the address is ready.
    pub(crate) async fn wait_until_ready(&self) {
        let ready = async || {
            let response = self.try_request("GET", "/health/ready", &[], b"").await;
            response.is_ok_and(|response| response.status == 200)
        };
        wait_until("the API is ready", DRAINS_WITHIN, ready).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[JSON], body.to_string().as_bytes()).await
    }

    /// Sends a request and returns the response.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let response = self.try_request(method, path, headers, body).await;
        response.unwrap_or_else(|error| panic!("no response to {method} {path}: {error}"))
    }

    /// Posts JSON under a key of any bytes.
    pub(crate) async fn request_with_key(&self, path: &str, key: &[u8], body: &Value) -> Response {
        let body = body.to_string();
        let request = self.encode("POST", path, &[JSON, ("Idempotency-Key", "KEY")], body.as_bytes());
        let at = request.windows(5).position(|bytes| bytes == b": KEY").expect("the header is there") + 2;
        let request = [&request[..at], key, &request[at + 3..]].concat();
        self.exchange(&request).await.unwrap_or_else(|error| panic!("no response to POST {path}: {error}"))
    }

    /// Sends a request and returns the response, or an error without a complete response.
    pub(crate) async fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        self.exchange(&self.encode(method, path, headers, body)).await
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<Response> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(request).await?;
        let mut response = Vec::new();
        let read = timeout(RESPONDS_WITHIN, stream.read_to_end(&mut response)).await?;
        match Response::read(&response) {
            Some(response) => Ok(response),
            None => Err(read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Encodes a request; `Host` is the address of the server unless `headers` has another one.
    fn encode(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Host")) {
            head.extend(["Host: ", &self.address.to_string(), "\r\n"]);
        }
        for (name, value) in headers {
            head.extend([*name, ": ", *value, "\r\n"]);
        }
        head.push_str("\r\n");
        [head.as_bytes(), body].concat()
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// Parses a response; `None` if it is incomplete.
    fn read(response: &[u8]) -> Option<Self> {
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let (head, body) = (std::str::from_utf8(&response[..end]).ok()?, &response[end + 4..]);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        let mut response = Self { status, headers: lines.filter_map(header).collect(), body: Vec::new() };
        response.body = match (response.header("content-length"), response.header("transfer-encoding")) {
            (_, Some("chunked")) => decode_chunked(body)?,
            (Some(length), _) if length.parse::<usize>().ok() != Some(body.len()) => return None,
            _ => body.to_vec(),
        };
        Some(response)
    }

    /// Asserts the status and returns the response.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The value of a header; `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.text());
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON, {error}: {}", self.text()))
    }

    /// The message of an error.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        let response = self.json();
        response["message"].as_str().unwrap_or_else(|| panic!("no message: {response}")).to_owned()
    }
}

/// Decodes a chunked body; `None` if it is incomplete.
fn decode_chunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        rest = &rest[end + 2..];
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
