//! The client's task: connects, serves one socket at a time, reconnects.

mod connection;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use url::Url;

use self::connection::Connection;
use super::{
    ClientConfig, ClientEvent,
    access::Access,
    dial::{DialTimings, Dialed, dial},
    endpoint::endpoint,
    error::ClientError,
    redact::redacted,
    token_error::TokenError,
};
use crate::proto::signaling::{Body, close};

/// A socket that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Maximum pause that a server can request by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Timeout of the closing handshake.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// How a socket ended.
enum End {
    /// The client closed it.
    Closed,
    /// It was abandoned for an immediate reconnection.
    Abandoned,
    /// The server closed it, or the network failed.
    Lost { code: Option<u16>, reason: String },
}

/// Signals from the handle, in addition to messages.
pub(super) struct Controls {
    /// Reconnect immediately.
    pub(super) again: Arc<Notify>,
    /// Ping immediately.
    pub(super) probe: Arc<Notify>,
    /// Close the client.
    pub(super) stopped: watch::Receiver<bool>,
}

/// The task of [`super::connect`].
pub(super) async fn run(
    config: ClientConfig,
    queue: mpsc::Receiver<Body>,
    controls: Controls,
    events: mpsc::Sender<ClientEvent>,
) {
    let Controls { again, probe, stopped } = controls;
    let outlet = Outlet { events, stopped };
    let mut client = Client { queue, unsent: None, again, probe, outlet };
    let (code, reason, error) = match client.connect_until_closed(&config).await {
        Ok(()) => (None, "closed by the client".to_owned(), None),
        Err(ClientError::Closed { code, reason, url }) => {
            (Some(code), reason.clone(), Some(ClientError::Closed { code, reason, url }))
        }
        Err(error) => (None, error.to_string(), Some(error)),
    };
    // Dropping the queue completes the handle's `close`, whether or not the last event is read.
    let Client { outlet, queue, .. } = client;
    drop(queue);
    outlet.last(ClientEvent::Closed { code, reason, error }).await;
}

struct Client {
    queue: mpsc::Receiver<Body>,
    /// A message that was taken from the queue but not sent before the socket was lost.
    unsent: Option<Body>,
    /// Notified to reconnect immediately.
    again: Arc<Notify>,
    /// Notified when the socket may be dead.
    probe: Arc<Notify>,
    outlet: Outlet,
}

/// Passes events to the user of the client, unless the handle is gone.
struct Outlet {
    events: mpsc::Sender<ClientEvent>,
    stopped: watch::Receiver<bool>,
}

impl Outlet {
    /// Emits an event, unless the client is being closed.
    async fn emit(&mut self, event: ClientEvent) {
        tokio::select! {
            _ = self.events.send(event) => {}
            () = stop(&mut self.stopped) => {}
        }
    }

    /// Emits the last event; waits up to [`CLOSE_WITHIN`] for a slow reader.
    async fn last(self, event: ClientEvent) {
        let _ = timeout(CLOSE_WITHIN, self.events.send(event)).await;
    }

    /// Waits until the client should close.
    async fn closing(&mut self) {
        tokio::select! {
            () = stop(&mut self.stopped) => {}
            () = self.events.closed() => {}
        }
    }
}

/// Waits for `close`, or until every handle is dropped.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

impl Client {
    async fn connect_until_closed(&mut self, config: &ClientConfig) -> Result<(), ClientError> {
        let url = endpoint(&config.url)?;
        let mut backoff = config.backoff.clone();
        let mut connected_before = false;
        loop {
            let attempt = tokio::select! {
                attempt = establish(config, &url) => attempt,
                () = self.again.notified() => continue,
                () = self.outlet.closing() => return Ok(()),
            };
            let (end, requested_pause) = match attempt {
                Ok(Established { dialed, access, timings }) => {
                    tracing::info!(url = redacted(&url), "signaling socket open");
                    let since = Instant::now();
                    let connection = Connection::new(config, dialed.socket, &access);
                    let connected = ClientEvent::Connected {
                        pair_id: access.pair_id,
                        ice_servers: access.ice_servers,
                        again: connected_before,
                        timings,
                        clock_skew: access.clock_skew.or(dialed.clock_skew),
                    };
                    connected_before = true;
                    self.outlet.emit(connected).await;
                    let end = connection.serve(self).await;
                    if since.elapsed() >= STABLE_AFTER {
                        backoff.reset();
                    }
                    (end, None)
                }
                Err(error) => {
                    let busy = config.retry_busy && error.is_temporary();
                    let retry = connected_before || config.retry_first || busy;
                    if error.is_final() || !retry {
                        return Err(error);
                    }
                    (End::Lost { code: None, reason: error.to_string() }, error.retry_after())
                }
            };
            let (code, reason) = match end {
                End::Closed => return Ok(()),
                End::Abandoned => {
                    backoff.reset();
                    let reason = "this machine's network has changed".to_owned();
                    let will_retry_in = Duration::ZERO;
                    let left = ClientEvent::Disconnected { code: None, reason, will_retry_in };
                    self.outlet.emit(left).await;
                    continue;
                }
                End::Lost { code, reason } => (code, reason),
            };
            if let Some(code) = code.filter(|code| !close::should_reconnect(*code)) {
                return Err(ClientError::Closed { url: redacted(&url), code, reason });
            }
            let pause =
                backoff.pause().max(requested_pause.unwrap_or_default().min(MAX_RETRY_AFTER));
            tracing::info!(?code, %reason, ?pause, "signaling socket lost");
            let lost = ClientEvent::Disconnected { code, reason, will_retry_in: pause };
            self.outlet.emit(lost).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.again.notified() => backoff.reset(),
                () = self.outlet.closing() => return Ok(()),
            }
        }
    }
}

/// A new socket, with its token and timings.
struct Established {
    dialed: Dialed,
    access: Access,
    timings: DialTimings,
}

/// Makes one attempt, and a second one with a fresh token if the server rejects the first token.
async fn establish(config: &ClientConfig, url: &Url) -> Result<Established, ClientError> {
    let mut timings = DialTimings::default();
    let mut access = fetch_access(config, &mut timings).await?;
    let within = config.connect_within;
    let mut attempt = dial(url, &access.token, &config.trust, None, within, &mut timings).await;
    if matches!(attempt, Err(ClientError::Refused { status: 401, .. })) && config.tokens.renews() {
        access = fetch_access(config, &mut timings).await?;
        attempt = dial(url, &access.token, &config.trust, None, within, &mut timings).await;
    }
    Ok(Established { dialed: attempt?, access, timings })
}

async fn fetch_access(
    config: &ClientConfig,
    timings: &mut DialTimings,
) -> Result<Access, TokenError> {
    let started = Instant::now();
    let access = config.tokens.access().await?;
    if config.tokens.renews() {
        *timings.token.get_or_insert_default() += started.elapsed();
    }
    Ok(access)
}
