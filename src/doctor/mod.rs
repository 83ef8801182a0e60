//! What this network and these ICE servers can do: everything is asked at once, each question has a
//! limit, and one verdict comes out in plain words.
//!
//! - `interfaces`: the addresses of this machine
//! - `servers`: each STUN and TURN server, by each transport
//! - `nat`: how the NAT behaves (RFC 4787), by RFC 5780 or with the help of a TURN server (`relayed`)
//! - `contact`: the token API and the signaling server
//! - [`verdict`]: what follows from it, and what to do
//! - [`report`]: all of it as values, which are the JSON · [`text`]: for people

mod contact;
mod interfaces;
mod nat;
mod relayed;
pub mod report;
mod servers;
pub mod text;
pub mod verdict;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use report::Report;

use crate::{peer, proto::token::IceServer, signaling::client::TokenProvider, stun::stream::Trust};

/// Longest time for everything but the life time of a binding.
pub const WITHIN: Duration = Duration::from_secs(15);

/// The schema of [`Report`] as JSON Schema, draft 2020-12.
pub const JSON_SCHEMA: &str = include_str!("schema.json");

/// Where the token API and signaling are.
#[derive(Clone)]
pub struct Contact {
    /// WebSocket URL of the signaling server.
    pub signal: String,
    /// The token API, for messages; `None` when the token is given.
    pub token_url: Option<String>,
    /// Gives the token.
    pub tokens: Arc<dyn TokenProvider>,
    /// Which certificates of the signaling server are believed.
    pub trust: Trust,
    /// Whether to join the room, which replaces a peer of the same device that is there.
    pub join: bool,
}

/// What to look at.
#[derive(Clone)]
pub struct DoctorConfig {
    /// The token API and signaling; `None` leaves them out.
    pub contact: Option<Contact>,
    /// ICE servers; none means those that come with the token.
    pub ice_servers: Vec<IceServer>,
    /// Whether to look at IPv4.
    pub v4: bool,
    /// Whether to look at IPv6.
    pub v6: bool,
    /// Network interface to look from; none means all.
    pub interface: Option<String>,
    /// Which certificates of TURN servers are believed.
    pub trust: Trust,
    /// Longest time for everything but the life time of a binding.
    pub within: Duration,
    /// Longest life time of a binding to look for; none leaves that out.
    pub binding_lifetime: Option<Duration>,
}

impl DoctorConfig {
    /// Looks at these servers from everywhere, and at nothing else.
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

    fn takes(&self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Looks, and tells by `progress` what it is looking at.
pub async fn run(config: &DoctorConfig, progress: &(dyn Fn(&str) + Sync)) -> Report {
    let (started, begun) = (SystemTime::now(), Instant::now());
    let until = begun + config.within;
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
    contacts.take(signaling, &mut problems);
    problems.extend(servers.iter().filter_map(|server| server.problem.clone()));
    let (nat, lifetime_of) = nat;
    let mut report = Report::new(started, interfaces, nat, servers, contacts);
    if let (Some(longest), Some((local, server))) = (config.binding_lifetime, lifetime_of) {
        progress("life time of a binding");
        nat::lifetime(&mut report.nat, local, server, longest).await;
    }
    report.conclude(config, !ice_servers.is_empty(), problems, begun.elapsed());
    report
}
