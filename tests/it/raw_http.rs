//! A minimal HTTP/1.1 client over TCP for the server tests, with full control over the request.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// A test that waits longer than this hangs.
pub const HANG: Duration = Duration::from_secs(30);

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body parsed as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Sends a request line, header lines and a body, and reads the response.
pub async fn request(addr: SocketAddr, line: &str, headers: &[&str], body: &str) -> Answer {
    timeout(HANG, exchange(addr, line, headers, body)).await.expect("the server hangs")
}

async fn exchange(addr: SocketAddr, line: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = BufReader::new(TcpStream::connect(addr).await.unwrap());
    let mut lines = vec![format!("{line} HTTP/1.1")];
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        lines.push("Host: localhost".into());
    }
    lines.extend(headers.iter().map(ToString::to_string));
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    let text = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
    stream.write_all(text.as_bytes()).await.unwrap();

    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}"));
    let status = status.parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let Some((key, value)) = line.trim_end().split_once(':') else { break };
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: String::new() };
    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    answer.body = String::from_utf8(body).unwrap();
    answer
}
