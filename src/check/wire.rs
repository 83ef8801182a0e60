//! HTTP/1.1 (RFC 9112) over TCP or TLS: sends exactly what a rule specifies, and limits the size of
//! every response.

use std::{fmt::Write as _, io};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::finding::{CaseError, violation};
use crate::{text::printable, tls::Trust};

/// Maximum size of a response head, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Maximum size of a response body, bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A connection, with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A boxed connection, with or without TLS.
pub type Stream = Box<dyn Io>;

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

/// Connects to the server of `url`, without TLS. With a small `receive_buffer` (bytes), unread data soon
/// fills the server's queue.
///
/// # Errors
/// The name has no address, or no address can be connected to.
pub async fn connect_tcp(url: &Url, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let port = url.port_or_known_default().unwrap_or(80);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host(url), port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                // Small messages must not wait for acknowledgments; a failure only affects latency.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether a URL requires TLS.
#[must_use]
pub fn is_secure(url: &Url) -> bool {
    matches!(url.scheme(), "wss" | "https")
}

/// Connects to the server of `url`, with TLS for `wss:` and `https:`.
///
/// # Errors
/// TCP or TLS could not be established.
pub async fn connect(url: &Url, trust: &Trust, receive_buffer: Option<u32>) -> io::Result<Stream> {
    let stream = connect_tcp(url, receive_buffer).await?;
    if !is_secure(url) {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host(url).to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = Box::pin(TlsConnector::from(trust.client()).connect(name, stream)).await?;
    Ok(Box::new(stream))
}

/// An HTTP response.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Body; after 101, the bytes of the next protocol that have already arrived.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header; `name` is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `text` occurs in any header or in the body.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        let body = String::from_utf8_lossy(&self.body);
        body.contains(text) || self.headers.iter().any(|(_, value)| value.contains(text))
    }

    /// The body as JSON; null when it is not valid JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Status and error `code`, human-readable; never the body.
    #[must_use]
    pub fn summary(&self) -> String {
        let json = self.json();
        let code: String = json["code"].as_str().unwrap_or_default().chars().take(60).collect();
        format!("HTTP {} {}", self.status, printable(&code)).trim_end().to_owned()
    }

    /// `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after")?.trim().parse().ok()
    }
}

/// A request: method, target, header lines and a body.
#[derive(Debug)]
pub struct Request {
    line: String,
    host: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    /// A request for the path and query of `url`, with `Host` and `User-Agent`.
    #[must_use]
    pub fn new(method: &str, url: &Url) -> Self {
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let line = format!("{method} {}{query} HTTP/1.1", url.path());
        let host = format!("{}{port}", url.host_str().unwrap_or_default());
        let head = format!("User-Agent: orion-peer/{}\r\n", env!("CARGO_PKG_VERSION"));
        Self { line, host, head, body: Vec::new() }
    }

    /// Replaces `Host`, if another one is given.
    #[must_use]
    pub fn to_host(self, host: Option<&str>) -> Self {
        Self { host: host.map_or(self.host, str::to_owned), ..self }
    }

    /// Adds a header line. Control characters in `value` are removed.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        // Writing to a String does not fail.
        let _ = write!(self.head, "{name}: {value}\r\n");
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &str) -> Self {
        let length = body.len().to_string();
        let mut request =
            self.header("Content-Type", "application/json").header("Content-Length", &length);
        request.body = body.as_bytes().to_vec();
        request
    }

    /// Sends the request and reads the response.
    ///
    /// # Errors
    /// The connection broke, or the response is not HTTP.
    pub async fn exchange(&self, stream: &mut Stream) -> Result<Answer, CaseError> {
        let lost =
            |error: io::Error| CaseError::Violation(format!("the connection broke: {error}"));
        let Self { line, host, head, .. } = self;
        let mut bytes = format!("{line}\r\nHost: {host}\r\n{head}\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        stream.write_all(&bytes).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        loop {
            let answer = read_answer(stream).await?;
            // Interim responses (RFC 9110 §15.2) other than 101 are skipped.
            if answer.status >= 200 || answer.status == 101 {
                return Ok(answer);
            }
        }
    }
}

async fn more(stream: &mut Stream, into: &mut Vec<u8>) -> Result<usize, CaseError> {
    let read = stream.read_buf(into).await;
    read.map_err(|error| {
        CaseError::Violation(format!("the connection broke before the response: {error}"))
    })
}

async fn read_answer(stream: &mut Stream) -> Result<Answer, CaseError> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > MAX_HEAD {
            return violation("the HTTP response head is larger than 64 KiB");
        }
        if more(stream, &mut bytes).await? == 0 {
            return violation(if bytes.is_empty() {
                "the connection was closed without a response"
            } else {
                "the connection was closed within the response head, or the response is not HTTP"
            });
        }
    };
    let rest = bytes.split_off(end + 4);
    let mut answer = parse_head(&String::from_utf8_lossy(&bytes))?;
    answer.body = if answer.status == 101 || matches!(answer.status, 100..200 | 204 | 304) {
        rest
    } else {
        read_body(stream, &answer, rest).await?
    };
    Ok(answer)
}

fn parse_head(head: &str) -> Result<Answer, CaseError> {
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let Some(status) = status else { return violation("the response is not HTTP") };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer { status, headers, body: Vec::new() })
}

async fn read_body(
    stream: &mut Stream,
    answer: &Answer,
    mut body: Vec<u8>,
) -> Result<Vec<u8>, CaseError> {
    let chunked = answer
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length = answer.header("content-length").and_then(|value| value.parse::<usize>().ok());
    loop {
        if body.len() > MAX_BODY {
            return violation("the response is larger than 1 MiB");
        }
        let whole = match (chunked, length) {
            (true, _) => match unchunk(&body)? {
                Some(whole) => return Ok(whole),
                None => false,
            },
            (false, Some(length)) => body.len() >= length,
            (false, None) => false,
        };
        if whole {
            body.truncate(length.unwrap_or(body.len()));
            return Ok(body);
        }
        if more(stream, &mut body).await? == 0 {
            if chunked || length.is_some() {
                return violation("the connection was closed within the response body");
            }
            return Ok(body);
        }
    }
}

/// The decoded chunked body (RFC 9112 §7.1); `None` while it is incomplete.
fn unchunk(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, CaseError> {
    let mut whole = Vec::new();
    loop {
        let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[..at]);
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return violation("the chunked body is malformed");
        };
        if size == 0 {
            return Ok(Some(whole));
        }
        if size > MAX_BODY {
            return violation("the response is larger than 1 MiB");
        }
        let Some(chunk) = bytes.get(at + 2..at + 2 + size) else { return Ok(None) };
        whole.extend_from_slice(chunk);
        let Some(rest) = bytes.get(at + 2 + size + 2..) else { return Ok(None) };
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &'static [u8]) -> Result<Answer, CaseError> {
        let (mut there, here) = tokio::io::duplex(1 << 16);
        there.write_all(bytes).await.unwrap();
        drop(there);
        let mut stream: Stream = Box::new(here);
        read_answer(&mut stream).await
    }

    #[tokio::test]
    async fn response_heads_determine_where_bodies_end() {
        for (bytes, body) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"[..], "ab"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "abc"),
            (b"HTTP/1.0 200 OK\r\n\r\nall of it", "all of it"),
            (b"HTTP/1.1 101 Switching\r\n\r\nframe", "frame"),
        ] {
            assert_eq!(read(bytes).await.unwrap().body, body.as_bytes());
        }
    }

    #[tokio::test]
    async fn garbage_is_a_violation_and_never_a_panic() {
        for bytes in [
            &b""[..],
            b"\0\0\0\0\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/1.1 9999999 x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
        ] {
            assert!(matches!(read(bytes).await, Err(CaseError::Violation(_))), "{bytes:?}");
        }
    }
}
