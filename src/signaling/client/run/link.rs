//! One signaling socket while it lives: messages both ways, pings, renewal of its token, its end.

use std::{
    future::pending,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{
    Bytes, Message as Frame,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{CLOSE_WITHIN, Client, End, MAX_RETRY_AFTER, Outlet};
use crate::{
    proto::{
        signaling::{Body, Message, ParseError},
        token::IceServer,
    },
    signaling::{
        client::token_client::TokenError,
        client::{Access, ClientConfig, ClientEvent, dial::Socket, server_time},
    },
    types::PairId,
};

/// Pause after a renewal that failed, while the socket is still good.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// A token is renewed after so long, whatever its `exp` says: a server may say anything, up to a time
/// that no clock can show.
const RENEW_WITHIN: Duration = Duration::from_hours(24);

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<Access, TokenError>> + Send + 'a>>;

/// One socket while it lives.
pub(super) struct Link<'a> {
    config: &'a ClientConfig,
    socket: Socket,
    pair_id: PairId,
    ping_at: Instant,
    /// Set by a ping, cleared by anything that comes.
    pong_by: Option<Instant>,
    renew_at: Option<Instant>,
    renewal: Option<Renewal<'a>>,
    /// ICE servers of the token sent by `auth`.
    renewed: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, seconds, when it shows.
    clock_skew: Option<f64>,
}

impl<'a> Link<'a> {
    pub(super) fn new(config: &'a ClientConfig, socket: Socket, access: &Access) -> Self {
        let mut link = Self {
            config,
            socket,
            pair_id: access.pair_id.clone(),
            ping_at: Instant::now() + config.ping_every,
            pong_by: None,
            renew_at: None,
            renewal: None,
            renewed: Vec::new(),
            clock_skew: access.clock_skew,
        };
        link.expires(access.exp);
        link
    }

    pub(super) async fn serve(mut self, client: &mut Client) -> End {
        if let Some(body) = client.unsent.take()
            && let Err(end) = self.send_from(client, body).await
        {
            return end;
        }
        let (again, probe) = (Arc::clone(&client.again), Arc::clone(&client.probe));
        loop {
            let step = tokio::select! {
                () = client.outlet.closing() => {
                    self.finish(client).await;
                    return End::Closed;
                }
                () = again.notified() => Err(End::Left),
                frame = self.socket.next() => self.received(frame, &mut client.outlet).await,
                Some(body) = client.queue.recv() => self.send_from(client, body).await,
                () = sleep_until(self.ping_at) => self.ping(self.config.pong_within).await,
                () = probe.notified() => self.ping(self.config.probe_within).await,
                () = at(self.pong_by) => Err(lost("the server does not answer pings")),
                () = at(self.renew_at) => {
                    self.renew_at = None;
                    self.renewal = Some(self.config.tokens.access());
                    Ok(())
                }
                fetched = fetched(&mut self.renewal) => {
                    self.renewal = None;
                    self.renew(fetched).await
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn received(
        &mut self,
        frame: Option<Result<Frame, tokio_tungstenite::tungstenite::Error>>,
        outlet: &mut Outlet,
    ) -> Result<(), End> {
        self.pong_by = None;
        match frame {
            None => Err(lost("the server hung up")),
            Some(Err(error)) => Err(lost(&error.to_string())),
            Some(Ok(Frame::Text(text))) => {
                self.message(&text, outlet).await;
                Ok(())
            }
            Some(Ok(Frame::Close(frame))) => {
                // Lets the answer to the close out; the socket is over in any case.
                let _ = timeout(CLOSE_WITHIN, self.socket.close(None)).await;
                let (code, reason) = match frame {
                    Some(frame) => (Some(frame.code.into()), frame.reason.to_string()),
                    None => (None, String::new()),
                };
                let reason = if reason.is_empty() { "closed by the server".into() } else { reason };
                Err(End::Lost { code, reason })
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    async fn message(&mut self, text: &str, outlet: &mut Outlet) {
        let bytes = text.len();
        let message = Message::parse(text);
        if let Ok(message) = &message {
            tracing::info!(message_type = message.body.t(), bytes, "signaling message received");
        }
        match message {
            Ok(message) if message.pair_id != self.pair_id => {
                tracing::debug!(t = message.body.t(), "message of another pair ignored");
            }
            Ok(Message { body: Body::AuthOk { exp }, .. }) => {
                self.expires(Some(exp));
                let ice_servers = std::mem::take(&mut self.renewed);
                outlet.tell(ClientEvent::Renewed { exp, ice_servers }).await;
            }
            Ok(message) => {
                if let Body::Hello { exp, .. } = message.body {
                    self.expires(Some(exp));
                }
                outlet.tell(ClientEvent::Message(message)).await;
            }
            Err(ParseError::UnknownType(t)) => {
                tracing::info!(message_type = %t, bytes, "unknown signaling message ignored");
            }
            Err(error) => tracing::info!(%error, bytes, "signaling message ignored"),
        }
    }

    /// Sends a message of the queue; one that could not be written is kept for the next socket.
    async fn send_from(&mut self, client: &mut Client, body: Body) -> Result<(), End> {
        let sent = self.send(body.clone()).await;
        if sent.is_err() {
            client.unsent = Some(body);
        }
        sent
    }

    async fn send(&mut self, body: Body) -> Result<(), End> {
        let message_type = body.t();
        let text = Message::new(self.pair_id.clone(), body).to_json();
        let bytes = text.len();
        self.write(Frame::text(text)).await?;
        tracing::info!(message_type, bytes, "signaling message sent");
        Ok(())
    }

    async fn write(&mut self, frame: Frame) -> Result<(), End> {
        match timeout(self.config.pong_within, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(&error.to_string())),
            Err(_) => Err(lost("the server does not read")),
        }
    }

    async fn ping(&mut self, within: Duration) -> Result<(), End> {
        let now = Instant::now();
        self.ping_at = now + self.config.ping_every;
        self.pong_by = Some(self.pong_by.map_or(now + within, |by| by.min(now + within)));
        self.write(Frame::Ping(Bytes::new())).await
    }

    /// Sets the renewal for a token that ends then.
    fn expires(&mut self, exp: Option<u64>) {
        let exp = exp.filter(|_| self.config.tokens.renews());
        self.renew_at = exp.map(|exp| {
            let now = server_time(SystemTime::now(), self.clock_skew);
            Instant::now() + renew_in(exp, now, self.config.renew_before)
        });
    }

    async fn renew(&mut self, fetched: Result<Access, TokenError>) -> Result<(), End> {
        match fetched {
            Ok(access) => {
                self.clock_skew = access.clock_skew;
                self.expires(access.exp);
                self.renewed = access.ice_servers;
                self.send(Body::Auth { token: access.token }).await
            }
            Err(error) => {
                tracing::warn!(%error, "token of the live socket not renewed");
                let pause = error.retry_after().unwrap_or(RENEW_AGAIN).min(MAX_RETRY_AFTER);
                self.renew_at = (!error.is_final()).then(|| Instant::now() + pause);
                Ok(())
            }
        }
    }

    /// Sends what is queued, then the closing handshake (RFC 6455 §7.1.2).
    async fn finish(mut self, client: &mut Client) {
        let goodbye = async {
            while let Ok(body) = client.queue.try_recv() {
                if self.send(body).await.is_err() {
                    return;
                }
            }
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if self.socket.close(Some(frame)).await.is_ok() {
                // Up to the server's own close; it need not hang up before we do.
                while let Some(Ok(frame)) = self.socket.next().await {
                    if frame.is_close() {
                        break;
                    }
                }
            }
        };
        let _ = timeout(CLOSE_WITHIN, goodbye).await;
    }
}

fn lost(reason: &str) -> End {
    End::Lost { code: None, reason: reason.to_owned() }
}

/// How long until a token with that `exp` is renewed; for one that is too short-lived, half its time.
fn renew_in(exp: u64, now: Duration, before: Duration) -> Duration {
    let left = Duration::from_secs(exp).saturating_sub(now);
    let pause = if left > before { left.saturating_sub(before) } else { left / 2 };
    pause.clamp(Duration::from_secs(1), RENEW_WITHIN)
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn fetched(renewal: &mut Option<Renewal<'_>>) -> Result<Access, TokenError> {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_a_minute_before_the_end() {
        let seconds = Duration::from_secs;
        let renew = |left: u64| renew_in(1000 + left, seconds(1000), seconds(60));
        assert_eq!(renew(300), seconds(240));
        assert_eq!(renew(61), seconds(1));
        assert_eq!(renew(40), seconds(20));
        assert_eq!(renew(0), seconds(1));
        assert_eq!(renew(30 * 86_400), RENEW_WITHIN);
        assert_eq!(renew_in(u64::MAX, seconds(1000), seconds(60)), RENEW_WITHIN);
        assert_eq!(renew_in(u64::MAX, Duration::ZERO, Duration::MAX), RENEW_WITHIN);
    }
}
