//! One open signaling socket: messages in both directions, pings, token renewal, close.

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
    signaling::client::{
        ClientConfig, ClientEvent, access::Access, clock::server_time, dial::Socket,
        token_error::TokenError,
    },
    types::PairId,
};

/// Pause after a failed renewal, while the socket still works.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Maximum time until a renewal, because the token's `exp` may be an arbitrary number.
const RENEW_WITHIN: Duration = Duration::from_hours(24);

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<Access, TokenError>> + Send + 'a>>;

/// One open socket.
pub(super) struct Connection<'a> {
    config: &'a ClientConfig,
    socket: Socket,
    pair_id: PairId,
    ping_at: Instant,
    /// Set by a ping, cleared by any incoming frame.
    pong_by: Option<Instant>,
    renew_at: Option<Instant>,
    renewal: Option<Renewal<'a>>,
    /// ICE servers returned with the token sent by `auth`.
    renewed: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, seconds, if known.
    clock_skew: Option<f64>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(config: &'a ClientConfig, socket: Socket, access: &Access) -> Self {
        let mut connection = Self {
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
        connection.schedule_renewal(access.exp);
        connection
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
                () = again.notified() => Err(End::Abandoned),
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
            None => Err(lost("the server closed the connection")),
            Some(Err(error)) => Err(lost(&error.to_string())),
            Some(Ok(Frame::Text(text))) => {
                self.message(&text, outlet).await;
                Ok(())
            }
            Some(Ok(Frame::Close(frame))) => {
                // Sends the answer to the close frame; the socket has ended in any case.
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
                self.schedule_renewal(Some(exp));
                let ice_servers = std::mem::take(&mut self.renewed);
                outlet.emit(ClientEvent::Renewed { exp, ice_servers }).await;
            }
            Ok(message) => {
                if let Body::Hello { exp, .. } = message.body {
                    self.schedule_renewal(Some(exp));
                }
                outlet.emit(ClientEvent::Message(message)).await;
            }
            Err(ParseError::UnknownType(t)) => {
                tracing::info!(message_type = %t, bytes, "unknown signaling message ignored");
            }
            Err(error) => tracing::info!(%error, bytes, "signaling message ignored"),
        }
    }

    /// Sends a message from the queue; if that fails, keeps the message for the next socket.
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
            Err(_) => Err(lost("the server has stopped reading")),
        }
    }

    async fn ping(&mut self, within: Duration) -> Result<(), End> {
        let now = Instant::now();
        self.ping_at = now + self.config.ping_every;
        self.pong_by = Some(self.pong_by.map_or(now + within, |by| by.min(now + within)));
        self.write(Frame::Ping(Bytes::new())).await
    }

    /// Schedules the renewal of a token with this expiry.
    fn schedule_renewal(&mut self, exp: Option<u64>) {
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
                self.schedule_renewal(access.exp);
                self.renewed = access.ice_servers;
                self.send(Body::Auth { token: access.token }).await
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew the token of the live socket");
                let pause = error.retry_after().unwrap_or(RENEW_AGAIN).min(MAX_RETRY_AFTER);
                self.renew_at = (!error.is_final()).then(|| Instant::now() + pause);
                Ok(())
            }
        }
    }

    /// Sends the queued messages, then performs the closing handshake (RFC 6455 §7.1.2).
    async fn finish(mut self, client: &mut Client) {
        let close = async {
            while let Ok(body) = client.queue.try_recv() {
                if self.send(body).await.is_err() {
                    return;
                }
            }
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if self.socket.close(Some(frame)).await.is_ok() {
                // Waits only for the server's close frame, not until it closes the connection.
                while let Some(Ok(frame)) = self.socket.next().await {
                    if frame.is_close() {
                        break;
                    }
                }
            }
        };
        let _ = timeout(CLOSE_WITHIN, close).await;
    }
}

fn lost(reason: &str) -> End {
    End::Lost { code: None, reason: reason.to_owned() }
}

/// Time until the renewal of a token with this `exp`: half of the remaining time if that is short.
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
    fn tokens_are_renewed_a_minute_before_they_expire() {
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
