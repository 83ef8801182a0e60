//! The token API and the signaling server: reachability, latency and clock skew.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{
    Contact,
    problem::Problem,
    report::{Contacted, millis},
};
use crate::{
    proto::token::IceServer,
    signaling::client::{
        self, Access, ClientConfig, ClientError, ClientEvent, DialTimings, ServerProbe,
        StaticToken, probe_server,
    },
    text::{clock_skew_words, printable},
};

/// Timeout for each server.
const WITHIN: Duration = Duration::from_secs(6);

/// Clock skew from which tokens and credentials are expected to fail, seconds.
const MAX_SKEW: f64 = 30.0;

/// Findings about both servers.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    pub(super) token: Option<Contacted>,
    pub(super) signaling: Option<Contacted>,
    pub(super) clock_skew: Option<f64>,
    access: Option<Access>,
}

impl Contacts {
    /// Fetches a token, and uses its ICE servers when no others are configured.
    pub(super) async fn token(
        &mut self,
        contact: &Contact,
        until: Instant,
        ice_servers: &mut Vec<IceServer>,
        problems: &mut Vec<Problem>,
    ) {
        let started = Instant::now();
        let fetched = timeout(left(until), contact.tokens.access()).await;
        let mut token = Contacted {
            url: contact.token_url.clone(),
            total_ms: Some(millis(started.elapsed())),
            ..Contacted::default()
        };
        match fetched {
            Ok(Ok(access)) => {
                token.ok = true;
                token.ice_servers = Some(access.ice_servers.len());
                self.clock_skew = access.clock_skew;
                if ice_servers.is_empty() {
                    ice_servers.clone_from(&access.ice_servers);
                }
                self.access = Some(access);
            }
            Ok(Err(error)) => problems.push(Problem::error(
                error.code(),
                contact.token_url.as_deref(),
                printable(&error.to_string()),
                error.remedy(),
            )),
            Err(_) => problems.push(Problem::error(
                "timeout",
                contact.token_url.as_deref(),
                format!("no token within {} s", started.elapsed().as_secs()),
                "check the port, firewalls in between, and whether the server is overloaded",
            )),
        }
        self.token = Some(token);
    }

    /// Adds the findings about signaling.
    pub(super) fn add(&mut self, found: Option<Signaling>, problems: &mut Vec<Problem>) {
        let Some(Signaling { contacted, clock_skew, problem }) = found else { return };
        self.clock_skew = self.clock_skew.or(clock_skew);
        self.signaling = Some(contacted);
        problems.extend(problem);
        if let Some(skew) = self.clock_skew {
            let wrong = Problem::error(
                "clock-skew",
                None,
                clock_skew_words(skew),
                "correct this machine's clock: enable NTP",
            );
            problems.push(if skew.abs() < MAX_SKEW { wrong.warning() } else { wrong });
        }
    }
}

/// Findings about the signaling server.
pub(super) struct Signaling {
    contacted: Contacted,
    clock_skew: Option<f64>,
    problem: Option<Problem>,
}

/// Connects to the signaling server without joining, or joins the room.
pub(super) async fn signaling(
    contact: Option<&Contact>,
    contacts: &Contacts,
    until: Instant,
) -> Option<Signaling> {
    let contact = contact?;
    let mut contacted = Contacted {
        url: Some(shown(&contact.signal)),
        joined: Some(false),
        ..Contacted::default()
    };
    let result = match (&contacts.access, contact.join) {
        (Some(access), true) => {
            let joined = join(contact, access, until).await;
            contacted.joined = Some(joined.is_ok());
            joined
        }
        _ => probe_server(&contact.signal, &contact.trust, left(until)).await,
    };
    Some(match result {
        Ok(ServerProbe { timings, clock_skew }) => {
            let DialTimings { dns, tcp, tls, upgrade, .. } = timings;
            contacted.ok = true;
            contacted.dns_ms = Some(millis(dns));
            contacted.tcp_ms = Some(millis(tcp));
            contacted.tls_ms = tls.map(millis);
            contacted.upgrade_ms = Some(millis(upgrade));
            contacted.total_ms = Some(millis(dns + tcp + tls.unwrap_or_default() + upgrade));
            Signaling { contacted, clock_skew, problem: None }
        }
        Err(error) => {
            let problem = Problem::error(
                error.code(),
                Some(&shown(&contact.signal)),
                printable(&error.to_string()),
                error.remedy(),
            );
            Signaling { contacted, clock_skew: None, problem: Some(problem) }
        }
    })
}

/// Joins with the fetched token, and leaves.
async fn join(
    contact: &Contact,
    access: &Access,
    until: Instant,
) -> Result<ServerProbe, ClientError> {
    let token = StaticToken::new(&access.token)?;
    let config = ClientConfig {
        connect_within: left(until),
        trust: contact.trust.clone(),
        ..ClientConfig::new(contact.signal.clone(), std::sync::Arc::new(token))
    };
    let (handle, mut events) = client::connect(config);
    while let Some(event) = events.recv().await {
        match event {
            ClientEvent::Connected { timings, clock_skew, .. } => {
                handle.close().await;
                return Ok(ServerProbe { timings, clock_skew });
            }
            ClientEvent::Closed { error: Some(error), .. } => return Err(error),
            _ => {}
        }
    }
    Err(ClientError::Timeout { url: shown(&contact.signal), after: WITHIN })
}

/// A URL without its query, which may contain secrets.
fn shown(url: &str) -> String {
    client::endpoint(url).map_or_else(|_| String::new(), |url| client::redacted(&url))
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(100), WITHIN)
}
