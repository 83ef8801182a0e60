//! One WebSocket (RFC 6455) as a rule uses it: what was relayed and what the server itself says are kept
//! apart, and nothing is waited for without a bound.

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
    plan::Patience,
    rule::{Miss, broken},
    wire::Stream,
};
use crate::types::printable;

/// The messages a server relays.
const RELAYED: [&str; 5] = ["offer", "answer", "ice", "bye", "state"];

/// How long a closed socket is read from for the rest of the closing handshake.
const FAREWELL: Duration = Duration::from_secs(2);

/// Largest message read, bytes.
const MAX_MESSAGE: usize = 4 << 20;

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Close code; none when the connection broke without one.
    pub code: Option<u16>,
    /// What the server said, or what broke.
    pub reason: String,
}

impl std::fmt::Display for End {
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
    notices: VecDeque<Value>,
    /// `t` of the very first message.
    first: Option<String>,
    garbage: Option<&'static str>,
    end: Option<End>,
    pings: usize,
    patience: Patience,
}

impl Socket {
    /// A socket on a connection whose upgrade was answered with 101; `part` came with the answer.
    pub async fn new(stream: Stream, part: Vec<u8>, patience: Patience) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let ws =
            WebSocketStream::from_partially_read(stream, part, Role::Client, Some(config)).await;
        Self {
            ws,
            relayed: VecDeque::new(),
            notices: VecDeque::new(),
            first: None,
            garbage: None,
            end: None,
            pings: 0,
            patience,
        }
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// The connection broke, or the server does not read.
    pub async fn send(&mut self, text: &str) -> Result<(), Miss> {
        match timeout(self.patience.answer, self.ws.send(Frame::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => self.lost_sending(&error.to_string()).await,
            Err(_) => broken("the server does not read what is sent"),
        }
    }

    /// What a failure to send means: the server's close frame says it better than the error.
    async fn lost_sending(&mut self, error: &str) -> Result<(), Miss> {
        match self.ended(FAREWELL).await {
            Ok(end) if end.code.is_some() => broken(format!("the socket was {end}")),
            _ => broken(format!("the connection broke while sending: {error}")),
        }
    }

    /// Sends a text frame, whether or not the server still takes it; false when it does not.
    pub async fn try_send(&mut self, text: &str) -> bool {
        matches!(timeout(self.patience.answer, self.ws.send(Frame::text(text))).await, Ok(Ok(())))
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_binary(&mut self, bytes: &[u8]) -> Result<(), Miss> {
        let frame = Frame::binary(bytes.to_vec());
        let sent = timeout(self.patience.answer, self.ws.send(frame)).await;
        sent.ok()
            .and_then(Result::ok)
            .ok_or_else(|| Miss::Broken("the connection broke while sending".into()))
    }

    /// Writes one masked frame with this first byte (FIN, RSV, opcode) and at most 125 bytes, as it is.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send_raw(&mut self, first: u8, payload: &[u8]) -> Result<(), Miss> {
        let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
        let mut bytes = vec![first, 0x80 | length, 0, 0, 0, 0];
        bytes.extend_from_slice(&payload[..usize::from(length)]);
        let stream = self.ws.get_mut();
        let written = async { stream.write_all(&bytes).await.and(stream.flush().await) };
        match timeout(self.patience.answer, written).await {
            Ok(Ok(())) => Ok(()),
            _ => broken("the connection broke while sending"),
        }
    }

    /// Reads one frame; false when none came in time.
    async fn step(&mut self, deadline: Instant) -> bool {
        if self.end.is_some() {
            return false;
        }
        let Ok(frame) = timeout_at(deadline, self.ws.next()).await else { return false };
        match frame {
            Some(Ok(Frame::Text(text))) => self.take(text.as_str()),
            Some(Ok(Frame::Binary(_))) => self.garbage = Some("a binary frame came"),
            Some(Ok(Frame::Ping(_))) => self.pings += 1,
            Some(Ok(Frame::Close(frame))) => {
                let (code, reason) = frame.map_or((None, "no code".into()), |frame| {
                    (Some(frame.code.into()), frame.reason.to_string())
                });
                self.end = Some(End { code, reason });
                // Reading on sends the answer to it.
                let farewell = async { while let Some(Ok(_)) = self.ws.next().await {} };
                let _ = timeout(FAREWELL, farewell).await;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => self.end = Some(End { code: None, reason: error.to_string() }),
            None => self.end = Some(End { code: None, reason: "end of the stream".into() }),
        }
        true
    }

    fn take(&mut self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(t) = value.get("t").and_then(Value::as_str) else {
            self.garbage = Some("a message came that is no JSON object with `t`");
            return;
        };
        self.first.get_or_insert_with(|| t.to_owned());
        if RELAYED.contains(&t) {
            self.relayed.push_back(text.to_owned());
        } else {
            self.notices.push_back(value);
        }
    }

    fn usable(&self) -> Result<(), Miss> {
        match (&self.end, self.garbage) {
            (_, Some(garbage)) => broken(garbage),
            (Some(end), None) => broken(format!("the socket was {end}")),
            (None, None) => Ok(()),
        }
    }

    async fn waiting<T>(
        &mut self,
        within: Duration,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Miss> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.usable()?;
            if !self.step(deadline).await {
                return broken(format!("{what} did not come within {:.1} s", within.as_secs_f64()));
            }
        }
    }

    /// The next relayed message, letter by letter.
    ///
    /// # Errors
    /// None came, or the socket ended.
    pub async fn relayed(&mut self) -> Result<String, Miss> {
        self.waiting(self.patience.answer, "a relayed message", |s| s.relayed.pop_front()).await
    }

    /// A relayed message that has come already.
    pub fn take_relayed(&mut self) -> Option<String> {
        self.relayed.pop_front()
    }

    /// The next relayed message as JSON.
    ///
    /// # Errors
    /// As [`Socket::relayed`].
    pub async fn relayed_json(&mut self) -> Result<Value, Miss> {
        Ok(serde_json::from_str(&self.relayed().await?).unwrap_or_default())
    }

    /// The next message of the server itself with this `t`; others stay.
    ///
    /// # Errors
    /// None came, or the socket ended.
    pub async fn notice(&mut self, t: &str) -> Result<Value, Miss> {
        self.notice_within(t, self.patience.answer).await
    }

    /// The same with a bound of its own.
    ///
    /// # Errors
    /// As [`Socket::notice`].
    pub async fn notice_within(&mut self, t: &str, within: Duration) -> Result<Value, Miss> {
        self.waiting(within, &format!("`{t}`"), |socket| socket.take_notice(t)).await
    }

    /// Takes a message of the server itself with this `t` that has come already.
    pub fn take_notice(&mut self, t: &str) -> Option<Value> {
        let at = self.notices.iter().position(|notice| notice["t"] == t)?;
        self.notices.remove(at)
    }

    /// Whether a message of the server itself with this `t` has come.
    #[must_use]
    pub fn has_notice(&self, t: &str) -> bool {
        self.notices.iter().any(|notice| notice["t"] == t)
    }

    /// `t` of the very first message.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// How many pings came.
    #[must_use]
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// Reads whatever comes for this long, or until something is there; true when it is.
    pub async fn anything(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.first.is_none() && self.end.is_none() {
            if !self.step(deadline).await {
                break;
            }
        }
        self.first.is_some()
    }

    /// Reads for this long, whatever comes.
    pub async fn read_for(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.step(deadline).await {}
    }

    /// Sees that nothing is relayed for a moment.
    ///
    /// # Errors
    /// Something was.
    pub async fn nothing_relayed(&mut self) -> Result<(), Miss> {
        self.read_for(self.patience.quiet).await;
        match self.relayed.front() {
            Some(text) => broken(format!("{} was relayed", named(text))),
            None => Ok(()),
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Reads to its end.
    ///
    /// # Errors
    /// It did not end.
    pub async fn ended(&mut self, within: Duration) -> Result<End, Miss> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = &self.end {
                return Ok(end.clone());
            }
            if !self.step(deadline).await {
                let waited = within.as_secs_f64();
                return broken(format!("the socket was still open after {waited:.1} s"));
            }
        }
    }

    /// Sees it closed with this code.
    ///
    /// # Errors
    /// It stayed open, or ended otherwise.
    pub async fn closed_with(&mut self, code: u16, within: Duration) -> Result<String, Miss> {
        let end = self.ended(within).await?;
        if end.code == Some(code) { Ok(end.to_string()) } else { broken(end.to_string()) }
    }

    /// Closes it, and waits until the server has closed, too.
    pub async fn close(mut self) {
        if self.end.is_some() {
            return;
        }
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let farewell = async {
            if self.ws.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.ws.next().await {}
            }
        };
        // A server that does not answer is not waited for any longer.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// A message by its `t` alone: SDP and candidates are not shown.
fn named(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let t: String = value["t"].as_str().unwrap_or("something").chars().take(40).collect();
    format!("`{}`", printable(&t))
}
