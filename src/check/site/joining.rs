//! Sockets to the server under test: asking for one, joining a room, being refused.

use std::sync::atomic::Ordering;

use super::{GREETS, SILENT, Site, UNKNOWN, Who, no_connection, pause};
use crate::{
    check::{
        plan::TokenIn,
        rule::{Level, Miss, Seen, broken},
        socket::Socket,
        wire::{Answer, Request, Stream, connect},
    },
    proto::signaling::{BEARER_SUBPROTOCOL, SUBPROTOCOL},
};
use tokio::time::sleep;

/// The nonce of RFC 6455 §1.3, and the answer to it.
pub const NONCE: [&str; 2] = ["dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="];

/// A request for the upgrade.
#[derive(Debug, Clone, Default)]
pub struct Knock {
    /// Token, shown the way of the run.
    pub token: Option<String>,
    /// How to show it, if otherwise.
    pub token_in: Option<TokenIn>,
    /// `Origin`.
    pub origin: Option<&'static str>,
    /// `Host`, if it is not the URL's.
    pub host: Option<&'static str>,
    /// Bytes of the receive buffer.
    pub receive_buffer: Option<u32>,
}

impl Knock {
    /// With this token.
    #[must_use]
    pub fn with(token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }
}

impl Site {
    /// Asks for the upgrade, once.
    ///
    /// # Errors
    /// There was no HTTP answer.
    pub async fn knock_once(&self, knock: &Knock) -> Result<(Answer, Stream), Miss> {
        let mut url = self.config.signal.clone();
        let (mut authorization, mut protocols) = (None, None);
        if let Some(token) = &knock.token {
            match knock.token_in.unwrap_or(self.config.token_in) {
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
            .to_host(knock.host)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", NONCE[0]);
        let optional = [
            ("Authorization", authorization.as_deref()),
            ("Sec-WebSocket-Protocol", protocols.as_deref()),
            ("Origin", knock.origin),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.signaling.worth_asking()?;
        let answer = self.in_time(async {
            let connected = connect(&url, &self.config.trust, knock.receive_buffer).await;
            let mut stream = connected.map_err(|error| no_connection(&error))?;
            let answer = request.exchange(&mut stream).await?;
            Ok((answer, stream))
        });
        self.signaling.note(answer.await)
    }

    /// Asks for the upgrade; waits as long as the server asks for.
    ///
    /// # Errors
    /// As [`Site::knock_once`].
    pub async fn knock(&self, knock: &Knock) -> Result<(Answer, Stream), Miss> {
        let mut tries = 1;
        loop {
            let (answer, stream) = self.knock_once(knock).await?;
            let Some(pause) = pause(&answer, tries) else { return Ok((answer, stream)) };
            sleep(pause).await;
            tries += 1;
        }
    }

    /// The same; a socket it may become is closed again.
    ///
    /// # Errors
    /// As [`Site::knock_once`].
    pub async fn knock_and_leave(&self, knock: &Knock) -> Result<Answer, Miss> {
        let (answer, stream) = self.knock(knock).await?;
        if answer.status == 101 {
            let patience = self.config.patience.clone();
            Socket::new(stream, answer.body.clone(), patience).await.close().await;
        }
        Ok(answer)
    }

    /// Joins the room of a device's pair.
    ///
    /// # Errors
    /// The server does not let it in.
    pub async fn join(&self, who: Who) -> Result<Socket, Miss> {
        let token = self.token(who).await?;
        self.join_with(&Knock::with(token)).await
    }

    /// Joins with a token.
    ///
    /// # Errors
    /// As [`Site::join`].
    pub async fn join_with(&self, knock: &Knock) -> Result<Socket, Miss> {
        let (answer, stream) = self.knock(knock).await?;
        if answer.status != 101 {
            self.needs("handshake.101")?;
            return broken(format!("a good token was not let in: {}", answer.summary()));
        }
        let patience = self.config.patience.clone();
        let wait = match self.greeting.load(Ordering::Relaxed) {
            GREETS => patience.answer,
            SILENT => patience.quiet / 4,
            _ => patience.quiet,
        };
        let mut socket = Socket::new(stream, answer.body, patience).await;
        let greeted = socket.anything(wait).await;
        let greeting = if greeted { GREETS } else { SILENT };
        // What the first socket sees holds for all.
        let _ =
            self.greeting.compare_exchange(UNKNOWN, greeting, Ordering::Relaxed, Ordering::Relaxed);
        Ok(socket)
    }

    /// Phone and Mac in their room.
    ///
    /// # Errors
    /// As [`Site::join`].
    pub async fn both(&self) -> Result<(Socket, Socket), Miss> {
        let phone = self.join(Who::Phone).await?;
        Ok((phone, self.join(Who::Mac).await?))
    }

    /// Sees the upgrade refused with this status; in production any refusal will do, also a socket
    /// closed at once.
    ///
    /// # Errors
    /// It was not.
    pub async fn refused(&self, knock: &Knock, status: u16) -> Seen {
        let (answer, stream) = self.knock(knock).await?;
        let lenient = self.config.level == Level::Production;
        match answer.status {
            found if found == status => Ok(answer.summary()),
            101 => {
                let patience = self.config.patience.clone();
                let within = patience.answer;
                let mut socket = Socket::new(stream, answer.body, patience).await;
                if lenient && let Ok(end) = socket.ended(within).await {
                    return Ok(format!("HTTP 101, then {end}"));
                }
                socket.close().await;
                broken("it was let in: HTTP 101")
            }
            400..500 if lenient => Ok(answer.summary()),
            _ => broken(answer.summary()),
        }
    }
}
