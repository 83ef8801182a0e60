//! The client's task: attempt after attempt, a socket at a time.

mod link;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use url::Url;

use self::link::Link;
use super::{
    Access, ClientConfig, ClientError, ClientEvent,
    dial::{DialTimings, Dialed, dial},
    endpoint::{endpoint, redacted},
};
use crate::{
    proto::signaling::{Body, close},
    signaling::client::token_client::TokenError,
};

/// A socket that held this long starts the back-off over.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Longest pause a server may ask for by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// How long the goodbye may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// How a socket ended.
enum End {
    /// This side closed.
    Closed,
    /// Another socket is wanted at once.
    Left,
    /// The server closed, or the network did.
    Lost { code: Option<u16>, reason: String },
}

/// What the handle asks for besides messages.
pub(super) struct Asked {
    /// Another socket at once.
    pub(super) again: Arc<Notify>,
    /// A ping out of turn.
    pub(super) probe: Arc<Notify>,
    /// The end.
    pub(super) stopped: watch::Receiver<bool>,
}

/// The task of [`super::connect`].
pub(super) async fn run(
    config: ClientConfig,
    queue: mpsc::Receiver<Body>,
    asked: Asked,
    events: mpsc::Sender<ClientEvent>,
) {
    let Asked { again, probe, stopped } = asked;
    let outlet = Outlet { events, stopped };
    let mut client = Client { queue, unsent: None, again, probe, outlet };
    let (code, reason, error) = match client.connect_until_closed(&config).await {
        Ok(()) => (None, "closed by this side".to_owned(), None),
        Err(ClientError::Closed { code, reason, url }) => {
            (Some(code), reason.clone(), Some(ClientError::Closed { code, reason, url }))
        }
        Err(error) => (None, error.to_string(), Some(error)),
    };
    // Without the queue the handle's `close` is done, whether or not the last event is read.
    let Client { outlet, queue, .. } = client;
    drop(queue);
    outlet.last(ClientEvent::Closed { code, reason, error }).await;
}

struct Client {
    queue: mpsc::Receiver<Body>,
    /// Taken from the queue, but not written before the socket went.
    unsent: Option<Body>,
    /// Notified when another socket is wanted at once.
    again: Arc<Notify>,
    /// Notified when the socket may be dead.
    probe: Arc<Notify>,
    outlet: Outlet,
}

/// The way to the user of the client, who may have gone.
struct Outlet {
    events: mpsc::Sender<ClientEvent>,
    stopped: watch::Receiver<bool>,
}

impl Outlet {
    /// Hands an event on; a user who wants to close no longer takes it.
    async fn tell(&mut self, event: ClientEvent) {
        tokio::select! {
            _ = self.events.send(event) => {}
            () = stop(&mut self.stopped) => {}
        }
    }

    /// The last event has no other end than being taken, or no one being there.
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

/// Waits for the word to close, or for every handle to be gone.
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
            let (end, asked) = match attempt {
                Ok(Established { dialed, access, timings }) => {
                    tracing::info!(url = redacted(&url), "signaling socket open");
                    let since = Instant::now();
                    let link = Link::new(config, dialed.socket, &access);
                    let connected = ClientEvent::Connected {
                        pair_id: access.pair_id,
                        ice_servers: access.ice_servers,
                        again: connected_before,
                        timings,
                        clock_skew: access.clock_skew.or(dialed.clock_skew),
                    };
                    connected_before = true;
                    self.outlet.tell(connected).await;
                    let end = link.serve(self).await;
                    if since.elapsed() >= STABLE_AFTER {
                        backoff.reset();
                    }
                    (end, None)
                }
                Err(error) => {
                    let busy = config.retry_busy && error.is_for_now();
                    let retry = connected_before || config.retry_first || busy;
                    if error.is_final() || !retry {
                        return Err(error);
                    }
                    (End::Lost { code: None, reason: error.to_string() }, error.retry_after())
                }
            };
            let (code, reason) = match end {
                End::Closed => return Ok(()),
                End::Left => {
                    backoff.reset();
                    let reason = "this machine's network has changed".to_owned();
                    let will_retry_in = Duration::ZERO;
                    let left = ClientEvent::Disconnected { code: None, reason, will_retry_in };
                    self.outlet.tell(left).await;
                    continue;
                }
                End::Lost { code, reason } => (code, reason),
            };
            if let Some(code) = code.filter(|code| !close::should_reconnect(*code)) {
                return Err(ClientError::Closed { url: redacted(&url), code, reason });
            }
            let pause = backoff.pause().max(asked.unwrap_or_default().min(MAX_RETRY_AFTER));
            tracing::info!(?code, %reason, ?pause, "signaling socket lost");
            let lost = ClientEvent::Disconnected { code, reason, will_retry_in: pause };
            self.outlet.tell(lost).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.again.notified() => backoff.reset(),
                () = self.outlet.closing() => return Ok(()),
            }
        }
    }
}

/// A socket, and how it came about.
struct Established {
    dialed: Dialed,
    access: Access,
    timings: DialTimings,
}

/// One attempt, with a second token if the first one is refused.
async fn establish(config: &ClientConfig, url: &Url) -> Result<Established, ClientError> {
    let mut timings = DialTimings::default();
    let mut access = ask(config, &mut timings).await?;
    let within = config.connect_within;
    let mut attempt = dial(url, &access.token, &config.trust, None, within, &mut timings).await;
    if matches!(attempt, Err(ClientError::Refused { status: 401, .. })) && config.tokens.renews() {
        access = ask(config, &mut timings).await?;
        attempt = dial(url, &access.token, &config.trust, None, within, &mut timings).await;
    }
    Ok(Established { dialed: attempt?, access, timings })
}

async fn ask(config: &ClientConfig, timings: &mut DialTimings) -> Result<Access, TokenError> {
    let started = Instant::now();
    let access = config.tokens.access().await?;
    if config.tokens.renews() {
        *timings.token.get_or_insert_default() += started.elapsed();
    }
    Ok(access)
}
