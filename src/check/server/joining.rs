//! Sockets to the server under test: handshakes, joining a room, rejections.

use std::sync::atomic::Ordering;

use super::{GREETS, Party, SILENT, ServerUnderTest, UNKNOWN, no_connection, pause};
use crate::{
    check::{
        finding::{CaseError, Finding, violation},
        level::Level,
        plan::TokenIn,
        socket::Socket,
        wire::{Answer, Request, Stream, connect},
    },
    proto::signaling::{BEARER_SUBPROTOCOL, SUBPROTOCOL},
};
use tokio::time::sleep;

/// The nonce of RFC 6455 §1.3, and its `Sec-WebSocket-Accept`.
pub const NONCE: [&str; 2] = ["dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="];

/// A request for the WebSocket upgrade.
#[derive(Debug, Clone, Default)]
pub struct HandshakeAttempt {
    /// Token, if any.
    pub token: Option<String>,
    /// How to present it; by default as configured for the run.
    pub token_in: Option<TokenIn>,
    /// `Origin` header, if any.
    pub origin: Option<&'static str>,
    /// `Host`, if it is not the URL's.
    pub host: Option<&'static str>,
    /// Size of the receive buffer, bytes; by default the system's.
    pub receive_buffer: Option<u32>,
}

impl HandshakeAttempt {
    /// An attempt with this token.
    #[must_use]
    pub fn with(token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }
}

impl ServerUnderTest {
    /// Requests the upgrade once.
    ///
    /// # Errors
    /// There was no HTTP response.
    pub async fn handshake_once(
        &self,
        attempt: &HandshakeAttempt,
    ) -> Result<(Answer, Stream), CaseError> {
        let mut url = self.config.signal.clone();
        let (mut authorization, mut protocols) = (None, None);
        if let Some(token) = &attempt.token {
            match attempt.token_in.unwrap_or(self.config.token_in) {
                TokenIn::Header => authorization = Some(format!("Bearer {token}")),
                TokenIn::Subprotocol => {
                    protocols = Some(format!("{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}{token}"));
                }
                TokenIn::Query => {
                    url.query_pairs_mut().append_pair("token", token);
                }
            }
        }
        let mut request = Request::new("GET", &url)
            .to_host(attempt.host)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", NONCE[0]);
        let optional = [
            ("Authorization", authorization.as_deref()),
            ("Sec-WebSocket-Protocol", protocols.as_deref()),
            ("Origin", attempt.origin),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.signaling.check_reachable()?;
        let answer = self.with_timeout(async {
            let connected = connect(&url, &self.config.trust, attempt.receive_buffer).await;
            let mut stream = connected.map_err(|error| no_connection(&error))?;
            let answer = request.exchange(&mut stream).await?;
            Ok((answer, stream))
        });
        self.signaling.record(answer.await)
    }

    /// Requests the upgrade; waits and retries when the server asks for a pause.
    ///
    /// # Errors
    /// As [`ServerUnderTest::handshake_once`].
    pub async fn handshake(
        &self,
        attempt: &HandshakeAttempt,
    ) -> Result<(Answer, Stream), CaseError> {
        let mut tries = 1;
        loop {
            let (answer, stream) = self.handshake_once(attempt).await?;
            let Some(pause) = pause(&answer, tries) else { return Ok((answer, stream)) };
            sleep(pause).await;
            tries += 1;
        }
    }

    /// Like [`ServerUnderTest::handshake`], but closes the socket if the upgrade succeeds.
    ///
    /// # Errors
    /// As [`ServerUnderTest::handshake_once`].
    pub async fn handshake_and_close(
        &self,
        attempt: &HandshakeAttempt,
    ) -> Result<Answer, CaseError> {
        let (answer, stream) = self.handshake(attempt).await?;
        if answer.status == 101 {
            let timeouts = self.config.timeouts.clone();
            Socket::new(stream, answer.body.clone(), timeouts).await.close().await;
        }
        Ok(answer)
    }

    /// Joins the room of a device's pair.
    ///
    /// # Errors
    /// The server rejects the device.
    pub async fn join(&self, party: Party) -> Result<Socket, CaseError> {
        let token = self.token(party).await?;
        self.join_with(&HandshakeAttempt::with(token)).await
    }

    /// Joins with a token.
    ///
    /// # Errors
    /// As [`ServerUnderTest::join`].
    pub async fn join_with(&self, attempt: &HandshakeAttempt) -> Result<Socket, CaseError> {
        let (answer, stream) = self.handshake(attempt).await?;
        if answer.status != 101 {
            self.require("handshake.101")?;
            return violation(format!("a valid token was rejected: {}", answer.summary()));
        }
        let timeouts = self.config.timeouts.clone();
        let wait = match self.greeting.load(Ordering::Relaxed) {
            GREETS => timeouts.answer,
            SILENT => timeouts.quiet / 4,
            _ => timeouts.quiet,
        };
        let mut socket = Socket::new(stream, answer.body, timeouts).await;
        let greeted = socket.wait_for_first(wait).await;
        let greeting = if greeted { GREETS } else { SILENT };
        // The first socket determines this for all of them.
        let _ =
            self.greeting.compare_exchange(UNKNOWN, greeting, Ordering::Relaxed, Ordering::Relaxed);
        Ok(socket)
    }

    /// Joins as the phone and as the Mac.
    ///
    /// # Errors
    /// As [`ServerUnderTest::join`].
    pub async fn both(&self) -> Result<(Socket, Socket), CaseError> {
        let phone = self.join(Party::Phone).await?;
        Ok((phone, self.join(Party::Mac).await?))
    }

    /// Expects the upgrade to be rejected with this status; level `production` accepts any rejection,
    /// including a socket that is closed immediately.
    ///
    /// # Errors
    /// The upgrade succeeded, or failed with another status.
    pub async fn expect_rejected(&self, attempt: &HandshakeAttempt, status: u16) -> Finding {
        let (answer, stream) = self.handshake(attempt).await?;
        let lenient = self.config.level == Level::Production;
        match answer.status {
            found if found == status => Ok(answer.summary()),
            101 => {
                let timeouts = self.config.timeouts.clone();
                let within = timeouts.answer;
                let mut socket = Socket::new(stream, answer.body, timeouts).await;
                if lenient && let Ok(end) = socket.ended(within).await {
                    return Ok(format!("HTTP 101, then {end}"));
                }
                socket.close().await;
                violation("accepted: HTTP 101")
            }
            400..500 if lenient => Ok(answer.summary()),
            _ => violation(answer.summary()),
        }
    }
}
