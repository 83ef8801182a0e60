//! Diagnosis of the network and of ICE servers: all probes run concurrently, each with a timeout, and
//! result in one verdict in plain words.
//!
//! - `interfaces`: addresses of this machine
//! - `servers`: each STUN and TURN server over each transport
//! - `nat`: behavior of the NAT (RFC 4787), tested according to RFC 5780 or with the help of a TURN
//!   server (`relayed`)
//! - `contact`: the token API and the signaling server
//! - [`problem`]: a problem and its remedy · `verdict`: which peers can be reached
//! - [`report`]: all findings; serialized as the JSON output · [`text`]: human-readable output

mod contact;
mod interfaces;
mod mirror;
mod nat;
pub mod problem;
mod relayed;
pub mod report;
mod scope;
mod servers;
mod target;
pub mod text;
mod verdict;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use problem::{Problem, Severity};
pub use report::DoctorReport;

use crate::{peer, proto::token::IceServer, signaling::client::TokenProvider, tls::Trust};

/// Timeout of everything but the measurement of a binding's lifetime.
pub const WITHIN: Duration = Duration::from_secs(15);

/// The schema of [`DoctorReport`] as JSON Schema, draft 2020-12.
pub const JSON_SCHEMA: &str = include_str!("schema.json");

/// The token API and the signaling server to test.
#[derive(Clone)]
pub struct Contact {
    /// WebSocket URL of the signaling server.
    pub signal: String,
    /// URL of the token API, for messages; `None` when the token is given.
    pub token_url: Option<String>,
    /// Source of the token.
    pub tokens: Arc<dyn TokenProvider>,
    /// Trusted certificates of the signaling server.
    pub trust: Trust,
    /// Whether to join the room, which replaces a connected peer of the same device.
    pub join: bool,
}

/// What to diagnose.
#[derive(Clone)]
pub struct DoctorConfig {
    /// The token API and the signaling server; `None` skips them.
    pub contact: Option<Contact>,
    /// ICE servers; if empty, those of the token response.
    pub ice_servers: Vec<IceServer>,
    /// Whether to test IPv4.
    pub v4: bool,
    /// Whether to test IPv6.
    pub v6: bool,
    /// Network interface to use; `None` means all.
    pub interface: Option<String>,
    /// Trusted certificates of TURN servers.
    pub trust: Trust,
    /// Timeout of everything but the measurement of a binding's lifetime.
    pub within: Duration,
    /// Maximum binding lifetime to measure; `None` skips the measurement.
    pub binding_lifetime: Option<Duration>,
}

impl DoctorConfig {
    /// Tests only these servers, over all interfaces and both address families.
    #[must_use]
    pub fn of(ice_servers: Vec<IceServer>) -> Self {
        Self {
            contact: None,
            ice_servers,
            v4: true,
            v6: true,
            interface: None,
            trust: Trust::web(),
            within: WITHIN,
            binding_lifetime: None,
        }
    }

    fn includes(&self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Runs the diagnosis; reports the current step to `progress`.
pub async fn run(config: &DoctorConfig, progress: &(dyn Fn(&str) + Sync)) -> DoctorReport {
    let (started, clock) = (SystemTime::now(), Instant::now());
    let until = clock + config.within;
    let interfaces = interfaces::list(config);
    let mut problems: Vec<_> =
        interfaces::small_buffer(peer::small_receive_buffer()).into_iter().collect();
    let mut ice_servers = config.ice_servers.clone();
    let mut contacts = contact::Contacts::default();
    if let Some(contact) = &config.contact {
        progress("token");
        contacts.token(contact, until, &mut ice_servers, &mut problems).await;
    }
    progress("servers, NAT and signaling");
    let targets = servers::resolve(config, &ice_servers, until).await;
    let (signaling, servers, nat) = tokio::join!(
        contact::signaling(config.contact.as_ref(), &contacts, until),
        servers::probe(config, &targets, contacts.clock_skew, until),
        nat::look(config, &targets, until, progress),
    );
    contacts.add(signaling, &mut problems);
    problems.extend(servers.iter().filter_map(|server| server.problem.clone()));
    let (nat, lifetime_of) = nat;
    let mut report = DoctorReport::new(started, interfaces, nat, servers);
    (report.token, report.signaling) = (contacts.token, contacts.signaling);
    report.clock_skew_s = contacts.clock_skew;
    if let (Some(max), Some((local, server))) = (config.binding_lifetime, lifetime_of) {
        progress("binding lifetime");
        nat::lifetime(&mut report.nat, local, server, max).await;
    }
    conclude(&mut report, config, !ice_servers.is_empty(), problems);
    report.duration = clock.elapsed();
    report
}

/// Completes the report: its verdict, and its problems with errors first.
fn conclude(
    report: &mut DoctorReport,
    config: &DoctorConfig,
    any_configured: bool,
    mut problems: Vec<Problem>,
) {
    report.verdict = verdict::judge(report, config, any_configured, &mut problems);
    problems.sort_by_key(|problem| problem.severity == Severity::Warning);
    report.problems = problems;
}
