//! Everything that was found. Its JSON is the output of `doctor --json`, schema `orion-peer/doctor/1`.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use super::{
    DoctorConfig,
    contact::Contacts,
    verdict::{self, Verdict},
};
pub(super) use crate::types::millis;
use crate::{nat::Ports, stun::discovery::Bounds};

/// Schema of the JSON.
pub const SCHEMA: &str = "orion-peer/doctor/1";

/// All that was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Of this program.
    pub version: &'static str,
    /// RFC 3339.
    pub started_at: String,
    /// Seconds.
    #[serde(rename = "durationS", serialize_with = "seconds")]
    pub duration: Duration,
    /// Addresses of this machine.
    pub interfaces: Vec<Interface>,
    /// The NAT.
    pub nat: Nat,
    /// Each server, by each transport and address family.
    pub servers: Vec<Server>,
    /// The token API; `None` when it was left out.
    pub token: Option<Contacted>,
    /// The signaling server; `None` when it was left out.
    pub signaling: Option<Contacted>,
    /// How far this machine's clock is ahead of the servers', seconds; `None` when it does not show.
    pub clock_skew_s: Option<f64>,
    /// What is wrong, and what to do about it.
    pub problems: Vec<Problem>,
    /// What follows.
    pub verdict: Verdict,
}

/// An address of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// `public`, `private`, `shared` (100.64/10, of carriers), `link-local` or `loopback`.
    pub scope: &'static str,
    /// Whether it looks like a VPN's.
    pub vpn: bool,
}

/// How the NAT behaves, as far as it shows.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nat {
    /// Whether UDP passes; `None` when there was no server to try it with.
    pub udp: Option<bool>,
    /// Whether a NAT translates; `None` when it is not known.
    pub translated: Option<bool>,
    /// The address of this machine that was looked from.
    pub local: Option<IpAddr>,
    /// Its external address.
    pub mapped: Option<IpAddr>,
    /// External addresses, when there are several: a pool (RFC 4787 §4.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pool: Vec<IpAddr>,
    /// RFC 4787 §4.1; without a NAT unknown.
    #[serde(serialize_with = "bounds")]
    pub mapping: Option<Bounds>,
    /// RFC 4787 §5, of a NAT or a firewall.
    #[serde(serialize_with = "bounds")]
    pub filtering: Option<Bounds>,
    /// How mapping and filtering were found out: `rfc5780`, `servers`, `turn`.
    pub mapping_by: Option<&'static str>,
    /// As above.
    pub filtering_by: Option<&'static str>,
    /// Why the filtering is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering_unknown: Option<String>,
    /// RFC 4787 §4.2.
    #[serde(serialize_with = "ports")]
    pub ports: Option<Ports>,
    /// RFC 4787 §6.
    pub hairpinning: Option<bool>,
    /// How long a binding lives without traffic, seconds: at least, and less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_lifetime_s: Option<[Option<f64>; 2]>,
    /// Where the servers are that it was seen from, when that is not the internet: `this-machine` or
    /// `this-network`. NATs beyond them do not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_from: Option<&'static str>,
    /// Its name among NAT profiles, when one fits.
    pub profile: Option<String>,
    /// Whether IPv6 reaches a server; `None` when none has an IPv6 address.
    pub ipv6: Option<bool>,
}

/// What a server gives.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// As configured.
    pub url: String,
    /// `udp`, `tcp` or `tls`.
    pub transport: &'static str,
    /// Whether it is a TURN server.
    pub turn: bool,
    /// The address that was asked.
    pub address: Option<SocketAddr>,
    /// Looking up its name, ms.
    pub resolve_ms: Option<f64>,
    /// TCP and TLS, ms.
    pub connect_ms: Option<f64>,
    /// Until the first answer, ms.
    pub answer_ms: Option<f64>,
    /// Whether it answers.
    pub reachable: bool,
    /// Whether it took user name and password; `None` when it did not come to that.
    pub authenticated: Option<bool>,
    /// XOR-RELAYED-ADDRESS.
    pub relayed: Option<SocketAddr>,
    /// Life time of the allocation, seconds.
    pub lifetime_s: Option<u64>,
    /// Round trips through the relayed address.
    pub rtt_ms: Option<Rtt>,
    /// A keyframe of 100 KB through it.
    pub burst: Option<Burst>,
    /// What it carries with as many packets under way as come back without loss.
    pub throughput: Option<Throughput>,
    /// Why round trips, burst and throughput were not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_measured: Option<String>,
    /// When the user name expires, of TURN REST credentials: seconds from now, negative when it has.
    pub credential_expires_in_s: Option<i64>,
    /// Why it does not give what it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Server {
    /// Whether it gives what it is there for: an address, or an allocation.
    #[must_use]
    pub fn works(&self) -> bool {
        if self.turn { self.relayed.is_some() } else { self.reachable }
    }
}

/// Round trip times, ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rtt {
    /// Packets sent.
    pub sent: u32,
    /// Packets that did not come back.
    pub lost: u32,
    /// Shortest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// Longest.
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
    /// From the first packet sent to the last that came back, ms; 85 of them are the pace.
    pub took_ms: f64,
}

/// What an allocation carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    /// Packets sent.
    pub sent: u32,
    /// Packets that came back.
    pub received: u32,
    /// Payload that came back, bits per second: a lower bound where round trips are long.
    pub bits_per_second: f64,
}

/// The token API or the signaling server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contacted {
    /// Its URL; none when the token was given.
    pub url: Option<String>,
    /// Whether it does what it is there for.
    pub ok: bool,
    /// Name, TCP, TLS, WebSocket upgrade, ms; for the token API all of it is `total`.
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
    /// All of it, ms.
    pub total_ms: Option<f64>,
    /// Whether the room was joined with the token; `None` for the token API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined: Option<bool>,
    /// ICE servers that came with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ice_servers: Option<usize>,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It keeps peers from connecting, or may.
    Error,
    /// Good to know.
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In kebab case: stable from version to version.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a URL, an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A problem that keeps peers from connecting.
    pub fn error(
        code: impl Into<String>,
        subject: Option<&str>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            severity: Severity::Error,
            subject: subject.map(str::to_owned),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// The same, but only good to know.
    #[must_use]
    pub fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }
}

impl Report {
    pub(super) fn new(
        started: SystemTime,
        interfaces: Vec<Interface>,
        nat: Nat,
        servers: Vec<Server>,
        contacts: Contacts,
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
            token: contacts.token,
            signaling: contacts.signaling,
            clock_skew_s: contacts.clock_skew,
            problems: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    pub(super) fn conclude(
        &mut self,
        config: &DoctorConfig,
        any_configured: bool,
        mut problems: Vec<Problem>,
        took: Duration,
    ) {
        self.duration = took;
        let verdict = verdict::judge(self, config, any_configured, &mut problems);
        problems.sort_by_key(|problem| problem.severity == Severity::Warning);
        self.problems = problems;
        self.verdict = verdict;
    }
}

fn seconds<S: Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((length.as_secs_f64() * 1e3).round() / 1e3)
}

/// `{"is","atLeast","atMost"}`; `is` only when both are the same.
#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde gives it so.
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

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde gives it so.
fn ports<S: Serializer>(ports: &Option<Ports>, serializer: S) -> Result<S::Ok, S::Error> {
    ports.map(Ports::as_str).serialize(serializer)
}
