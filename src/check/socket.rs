//! One WebSocket (RFC 6455) as a rule uses it: relayed messages and the server's own are kept
//! separate, and every wait has a timeout.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    finding::{CaseError, violation},
    plan::Timeouts,
    wire::Stream,
};
use crate::text::printable;

/// Types of messages that a server relays.
const RELAYED: [&str; 5] = ["offer", "answer", "ice", "bye", "state"];

/// How long a closed socket is still read from, to complete the closing handshake.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum size of a received message, bytes.
const MAX_MESSAGE: usize = 4 << 20;

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketEnd {
    /// Close code; `None` when the connection broke without one.
    pub code: Option<u16>,
    /// Reason of the close frame, or error text.
    pub reason: String,
}

impl std::fmt::Display for SocketEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reason: String = printable(&self.reason).chars().take(80).collect();
        match self.code {
            Some(code) => write!(f, "closed with {code} {reason}"),
            None => write!(f, "cut off without a close frame ({reason})"),
        }
    }
}

/// A socket to the server under test.
pub struct Socket {
    ws: WebSocketStream<Stream>,
    relayed: VecDeque<String>,
    server_messages: VecDeque<Value>,
    /// `t` of the first message received.
    first: Option<String>,
    garbage: Option<&'static str>,
    end: Option<SocketEnd>,
    pings: usize,
    timeouts: Timeouts,
}

impl Socket {
    /// A socket on a connection whose upgrade was answered with 101; `part` was read with the response.
    pub async fn new(stream: Stream, part: Vec<u8>, timeouts: Timeouts) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let ws =
            WebSocketStream::from_partially_read(stream, part, Role::Client, Some(config)).await;
        Self {
            ws,
            relayed: VecDeque::new(),
            server_messages: VecDeque::new(),
            first: None,
            garbage: None,
            end: None,
            pings: 0,
            timeouts,
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The connection broke, or the server does not read.
    pub async fn send(&mut self, text: &str) -> Result<(), CaseError> {
        match timeout(self.timeouts.answer, self.ws.send(Frame::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.lost_sending(&error.to_string()).await,
            Err(_) => violation("the server does not read what is sent"),
        }
    }

    /// Describes a failure to send: the server's close frame is more informative than the error.
    async fn lost_sending(&mut self, error: &str) -> Result<(), CaseError> {
        match self.ended(CLOSING_TIMEOUT).await {
            Ok(end) if end.code.is_some() => violation(format!("the socket was {end}")),
            _ => violation(format!("the connection broke while sending: {error}")),
        }
    }

    /// Sends a text frame; false when the server no longer accepts it.
    pub async fn try_send(&mut self, text: &str) -> bool {
        matches!(timeout(self.timeouts.answer, self.ws.send(Frame::text(text))).await, Ok(Ok(())))
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_binary(&mut self, bytes: &[u8]) -> Result<(), CaseError> {
        let frame = Frame::binary(bytes.to_vec());
        let sent = timeout(self.timeouts.answer, self.ws.send(frame)).await;
        sent.ok()
            .and_then(Result::ok)
            .ok_or_else(|| CaseError::Violation("the connection broke while sending".into()))
    }

    /// Writes one masked frame with this first byte (FIN, RSV, opcode) and at most 125 bytes, unchecked.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_raw(&mut self, first: u8, payload: &[u8]) -> Result<(), CaseError> {
        let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
        let mut bytes = vec![first, 0x80 | length, 0, 0, 0, 0];
        bytes.extend_from_slice(&payload[..usize::from(length)]);
        let stream = self.ws.get_mut();
        let written = async { stream.write_all(&bytes).await.and(stream.flush().await) };
        match timeout(self.timeouts.answer, written).await {
            Ok(Ok(())) => Ok(()),
            _ => violation("the connection broke while sending"),
        }
    }

    /// Reads one frame; false when none arrived before the deadline.
    async fn step(&mut self, deadline: Instant) -> bool {
        if self.end.is_some() {
            return false;
        }
        let Ok(frame) = timeout_at(deadline, self.ws.next()).await else { return false };
        match frame {
            Some(Ok(Frame::Text(text))) => self.take(text.as_str()),
            Some(Ok(Frame::Binary(_))) => self.garbage = Some("received a binary frame"),
            Some(Ok(Frame::Ping(_))) => self.pings += 1,
            Some(Ok(Frame::Close(frame))) => {
                let (code, reason) = frame.map_or((None, "no code".into()), |frame| {
                    (Some(frame.code.into()), frame.reason.to_string())
                });
                self.end = Some(SocketEnd { code, reason });
                // Further reads send the close frame in response.
                let closing = async { while let Some(Ok(_)) = self.ws.next().await {} };
                let _ = timeout(CLOSING_TIMEOUT, closing).await;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                self.end = Some(SocketEnd { code: None, reason: error.to_string() });
            }
            None => self.end = Some(SocketEnd { code: None, reason: "end of the stream".into() }),
        }
        true
    }

    fn take(&mut self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(t) = value.get("t").and_then(Value::as_str) else {
            self.garbage = Some("received a message that is not a JSON object with `t`");
            return;
        };
        self.first.get_or_insert_with(|| t.to_owned());
        if RELAYED.contains(&t) {
            self.relayed.push_back(text.to_owned());
        } else {
            self.server_messages.push_back(value);
        }
    }

    fn usable(&self) -> Result<(), CaseError> {
        match (&self.end, self.garbage) {
            (_, Some(garbage)) => violation(garbage),
            (Some(end), None) => violation(format!("the socket was {end}")),
            (None, None) => Ok(()),
        }
    }

    async fn wait_for<T>(
        &mut self,
        within: Duration,
        what: &str,
        mut find: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, CaseError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = find(self) {
                return Ok(found);
            }
            self.usable()?;
            if !self.step(deadline).await {
                return violation(format!("no {what} within {:.1} s", within.as_secs_f64()));
            }
        }
    }

    /// The next relayed message, verbatim.
    ///
    /// # Errors
    /// None arrived, or the socket ended.
    pub async fn relayed(&mut self) -> Result<String, CaseError> {
        self.wait_for(self.timeouts.answer, "relayed message", |s| s.relayed.pop_front()).await
    }

    /// A relayed message that has already arrived.
    pub fn take_relayed(&mut self) -> Option<String> {
        self.relayed.pop_front()
    }

    /// The next relayed message as JSON.
    ///
    /// # Errors
    /// As [`Socket::relayed`].
    pub async fn relayed_json(&mut self) -> Result<Value, CaseError> {
        Ok(serde_json::from_str(&self.relayed().await?).unwrap_or_default())
    }

    /// The next message from the server itself with this `t`; others stay queued.
    ///
    /// # Errors
    /// None arrived, or the socket ended.
    pub async fn server_message(&mut self, t: &str) -> Result<Value, CaseError> {
        self.server_message_within(t, self.timeouts.answer).await
    }

    /// Like [`Socket::server_message`], with another timeout.
    ///
    /// # Errors
    /// As [`Socket::server_message`].
    pub async fn server_message_within(
        &mut self,
        t: &str,
        within: Duration,
    ) -> Result<Value, CaseError> {
        self.wait_for(within, &format!("`{t}`"), |socket| socket.take_server_message(t)).await
    }

    /// Takes a message from the server itself with this `t` that has already arrived.
    pub fn take_server_message(&mut self, t: &str) -> Option<Value> {
        let at = self.server_messages.iter().position(|message| message["t"] == t)?;
        self.server_messages.remove(at)
    }

    /// Whether a message from the server itself with this `t` has arrived.
    #[must_use]
    pub fn has_server_message(&self, t: &str) -> bool {
        self.server_messages.iter().any(|message| message["t"] == t)
    }

    /// `t` of the first message received.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Number of pings received.
    #[must_use]
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// Reads until a first message arrives or the time has elapsed; true when one arrived.
    pub async fn wait_for_first(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.first.is_none() && self.end.is_none() {
            if !self.step(deadline).await {
                break;
            }
        }
        self.first.is_some()
    }

    /// Reads everything that arrives within this time.
    pub async fn read_for(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.step(deadline).await {}
    }

    /// Expects nothing to be relayed for a short time.
    ///
    /// # Errors
    /// A message was relayed.
    pub async fn nothing_relayed(&mut self) -> Result<(), CaseError> {
        self.read_for(self.timeouts.quiet).await;
        match self.relayed.front() {
            Some(text) => violation(format!("{} was relayed", named(text))),
            None => Ok(()),
        }
    }

    /// How the socket ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&SocketEnd> {
        self.end.as_ref()
    }

    /// Reads until the socket ends.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn ended(&mut self, within: Duration) -> Result<SocketEnd, CaseError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = &self.end {
                return Ok(end.clone());
            }
            if !self.step(deadline).await {
                let waited = within.as_secs_f64();
                return violation(format!("the socket was still open after {waited:.1} s"));
            }
        }
    }

    /// Expects a close frame with this code.
    ///
    /// # Errors
    /// The socket stayed open, or ended differently.
    pub async fn closed_with(&mut self, code: u16, within: Duration) -> Result<String, CaseError> {
        let end = self.ended(within).await?;
        if end.code == Some(code) { Ok(end.to_string()) } else { violation(end.to_string()) }
    }

    /// Closes the socket, and waits for the server's close frame.
    pub async fn close(mut self) {
        if self.end.is_some() {
            return;
        }
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let closing = async {
            if self.ws.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.ws.next().await {}
            }
        };
        // Do not wait longer for a server that does not answer.
        let _ = timeout(CLOSING_TIMEOUT, closing).await;
    }
}

/// Names a message by its `t` only: SDP and candidates are not shown.
fn named(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let t: String = value["t"].as_str().unwrap_or("something").chars().take(40).collect();
    format!("`{}`", printable(&t))
}
