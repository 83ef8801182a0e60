//! All findings. Their JSON is the output of `doctor --json`, schema `orion-peer/doctor/1`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use super::problem::Problem;
pub(super) use crate::types::millis;
use crate::{nat::Ports, stun::discovery::Bounds};

/// Name and version of the JSON schema.
pub const SCHEMA: &str = "orion-peer/doctor/1";

/// All findings of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DoctorReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of orion-peer.
    pub version: &'static str,
    /// Start of the run, RFC 3339.
    pub started_at: String,
    /// Duration of the run; seconds in JSON.
    #[serde(rename = "durationS", serialize_with = "seconds")]
    pub duration: Duration,
    /// Addresses of this machine.
    pub interfaces: Vec<Interface>,
    /// Behavior of the NAT.
    pub nat: Nat,
    /// Each server over each transport and address family.
    pub servers: Vec<Server>,
    /// The token API; `None` when skipped.
    pub token: Option<Contacted>,
    /// The signaling server; `None` when skipped.
    pub signaling: Option<Contacted>,
    /// This machine's clock minus the servers', seconds; `None` when unknown.
    pub clock_skew_s: Option<f64>,
    /// Problems and their remedies, errors first.
    pub problems: Vec<Problem>,
    /// Conclusion from all findings.
    pub verdict: Verdict,
}

/// Which peers can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every peer, directly or over a relay.
    All,
    /// Some peers only.
    Some,
    /// None: signaling or every server fails.
    #[default]
    None,
}

/// Conclusion from all findings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Which peers can be reached.
    pub class: Class,
    /// Exit code: 0 if all peers can be reached, 3 if some cannot, 1 if nothing works or a server fails.
    pub exit: u8,
    /// The conclusion as a human-readable sentence.
    pub text: String,
    /// NAT profiles of peers that can be reached directly.
    pub direct: Vec<String>,
    /// NAT profiles of peers that can be reached over a relay.
    pub relay: Vec<String>,
    /// NAT profiles of peers that cannot be reached.
    pub none: Vec<String>,
    /// Transports over which a relay works: `udp`, `tcp`, `tls`.
    pub relays: Vec<&'static str>,
}

/// An address of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// Address of the interface.
    pub address: IpAddr,
    /// `public`, `private`, `shared` (100.64.0.0/10, carrier-grade NAT), `link-local` or `loopback`.
    pub scope: &'static str,
    /// Whether it looks like a VPN.
    pub vpn: bool,
}

/// Behavior of the NAT, as far as it is known.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nat {
    /// Whether UDP passes; `None` when no server could be tried.
    pub udp: Option<bool>,
    /// Whether a NAT translates addresses; `None` when unknown.
    pub translated: Option<bool>,
    /// The local address used.
    pub local: Option<IpAddr>,
    /// Its external address.
    pub mapped: Option<IpAddr>,
    /// External addresses, if there are several: a pool (RFC 4787 §4.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pool: Vec<IpAddr>,
    /// Mapping behavior (RFC 4787 §4.1); `None` without a NAT.
    #[serde(serialize_with = "bounds")]
    pub mapping: Option<Bounds>,
    /// Filtering behavior of a NAT or firewall (RFC 4787 §5).
    #[serde(serialize_with = "bounds")]
    pub filtering: Option<Bounds>,
    /// How the mapping was determined: `rfc5780`, `servers` or `turn`.
    pub mapping_by: Option<&'static str>,
    /// How the filtering was determined: `rfc5780` or `turn`.
    pub filtering_by: Option<&'static str>,
    /// Why the filtering is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering_unknown: Option<String>,
    /// Port assignment (RFC 4787 §4.2).
    #[serde(serialize_with = "ports")]
    pub ports: Option<Ports>,
    /// Whether the NAT supports hairpinning (RFC 4787 §6).
    pub hairpinning: Option<bool>,
    /// Lifetime of a binding without traffic, seconds: lower and upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_lifetime_s: Option<[Option<f64>; 2]>,
    /// Where the servers are, if not on the internet: `this-machine` or `this-network`. NATs beyond them
    /// cannot be detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_from: Option<&'static str>,
    /// The name of the NAT profile, if one matches.
    pub profile: Option<String>,
    /// Whether a server can be reached over IPv6; `None` when none has an IPv6 address.
    pub ipv6: Option<bool>,
}

/// A STUN or TURN server, over one transport.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// URL as configured.
    pub url: String,
    /// `udp`, `tcp` or `tls`.
    pub transport: &'static str,
    /// Whether it is a TURN server.
    pub turn: bool,
    /// The address used.
    pub address: Option<SocketAddr>,
    /// Time of the DNS lookup, ms.
    pub resolve_ms: Option<f64>,
    /// Time to connect (TCP and TLS), ms.
    pub connect_ms: Option<f64>,
    /// Time to the first response, ms.
    pub answer_ms: Option<f64>,
    /// Whether it responds.
    pub reachable: bool,
    /// Whether it accepted username and password; `None` when it did not get that far.
    pub authenticated: Option<bool>,
    /// The allocated address (XOR-RELAYED-ADDRESS).
    pub relayed: Option<SocketAddr>,
    /// Lifetime of the allocation, seconds.
    pub lifetime_s: Option<u64>,
    /// Round trips through the relayed address.
    pub rtt_ms: Option<Rtt>,
    /// A keyframe of 100 KB through the relayed address.
    pub burst: Option<Burst>,
    /// Throughput with as many packets in flight as come back without loss.
    pub throughput: Option<Throughput>,
    /// Why round trips, burst and throughput were not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// Remaining lifetime of TURN REST credentials, seconds; negative if they have expired.
    pub credential_expires_in_s: Option<i64>,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Server {
    /// Whether it works: a STUN server responds, a TURN server allocates a relayed address.
    #[must_use]
    pub fn works(&self) -> bool {
        if self.turn { self.relayed.is_some() } else { self.reachable }
    }
}

/// Round-trip times, ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rtt {
    /// Packets sent.
    pub sent: u32,
    /// Packets that did not come back.
    pub lost: u32,
    /// Minimum.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// Maximum.
    pub max: f64,
}

/// A keyframe of 100 KB, sent at 8 Mbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Burst {
    /// Packets sent.
    pub sent: u32,
    /// Packets that came back.
    pub received: u32,
    /// From the first packet sent to the last that came back, ms; pacing accounts for 85 ms of
    /// this.
    pub took_ms: f64,
}

/// Throughput of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    /// Packets sent.
    pub sent: u32,
    /// Packets that came back.
    pub received: u32,
    /// Payload that came back, bits per second; a lower bound if round trips are long.
    pub bits_per_second: f64,
}

/// The token API or the signaling server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contacted {
    /// Its URL; `None` when the token was given.
    pub url: Option<String>,
    /// Whether it works.
    pub ok: bool,
    /// DNS lookup, ms; for the token API, only `total_ms` is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_ms: Option<f64>,
    /// TCP connection, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_ms: Option<f64>,
    /// TLS handshake, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ms: Option<f64>,
    /// WebSocket upgrade, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_ms: Option<f64>,
    /// Total time, ms.
    pub total_ms: Option<f64>,
    /// Whether the room was joined with the token; `None` for the token API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined: Option<bool>,
    /// Number of ICE servers in the token response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ice_servers: Option<usize>,
}

impl DoctorReport {
    pub(super) fn new(
        started: SystemTime,
        interfaces: Vec<Interface>,
        nat: Nat,
        servers: Vec<Server>,
    ) -> Self {
        let started = jiff::Timestamp::try_from(started).unwrap_or_default();
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            started_at: format!("{started:.3}"),
            duration: Duration::ZERO,
            interfaces,
            nat,
            servers,
            token: None,
            signaling: None,
            clock_skew_s: None,
            problems: Vec::new(),
            verdict: Verdict::default(),
        }
    }
}

fn seconds<S: Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((length.as_secs_f64() * 1e3).round() / 1e3)
}

/// `{"is","atLeast","atMost"}`; `is` is null unless the bounds are equal.
#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // Required by serde.
fn bounds<S: Serializer>(bounds: &Option<Bounds>, serializer: S) -> Result<S::Ok, S::Error> {
    bounds
        .map(|known| {
            serde_json::json!({
                "is": known.exact().map(crate::nat::Behaviour::as_str),
                "atLeast": known.at_least.as_str(),
                "atMost": known.at_most.as_str(),
            })
        })
        .serialize(serializer)
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // Required by serde.
fn ports<S: Serializer>(ports: &Option<Ports>, serializer: S) -> Result<S::Ok, S::Error> {
    ports.map(Ports::as_str).serialize(serializer)
}
