//! Filters the remote peer's candidates (RFC 8839 §5.1, RFC 8445 §5.1, §6.1.2.5 and §19.5.1).
//!
//! The `rtc` crate pairs each remote candidate with every local one and checks every pair at each tick. A peer that
//! signals thousands of candidates, or a multicast address, would make this machine flood others.
//!
//! Both descriptions and trickled candidates are read with the crate's own parser: the filter judges exactly what
//! the crate would use.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use rtc::ice::candidate::{Candidate, unmarshal_candidate};

use super::{
    allowance::Allowance,
    sdp::{self, Rewritten, SdpError, ufrag},
};
use crate::types::CandidateType;

/// Maximum number of candidates accepted for one ICE generation; a device has about a dozen. A signaling server keeps
/// as many with an offer.
const MAX_TAKEN: usize = 64;

/// Maximum number of mDNS names among these; each is looked up on the local network.
const MAX_NAMES: usize = 16;

/// Candidates accepted across all generations: the number in a burst, and the number per second after that. A device
/// that restarts ICE every few seconds needs fewer.
const OVER_TIME: (u32, f64) = (4 * MAX_TAKEN as u32, 2.0);

/// Maximum length of a candidate, bytes; one with every existing attribute has 300.
pub(super) const MAX_BYTES: usize = 1024;

/// Maximum length of an mDNS name, bytes: a DNS label and `.local`.
const MAX_NAME_BYTES: usize = 63 + 6;

/// Where a candidate can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// An address, with the candidate type that was signaled.
    Address(SocketAddr, CandidateType),
    /// An mDNS name.
    Name,
}

/// The remote peer's candidates on one connection.
#[derive(Debug)]
pub(super) struct RemoteCandidates {
    /// The ufrag of the last description: a different one means a new generation.
    ufrag: Option<String>,
    taken: usize,
    names: usize,
    over_time: Allowance,
    warned: bool,
    /// The last type that each address was signaled with.
    kinds: HashMap<SocketAddr, CandidateType>,
}

impl Default for RemoteCandidates {
    fn default() -> Self {
        let (burst, per_second) = OVER_TIME;
        Self {
            ufrag: None,
            taken: 0,
            names: 0,
            over_time: Allowance::new(burst, per_second),
            warned: false,
            kinds: HashMap::new(),
        }
    }
}

impl RemoteCandidates {
    /// Rewrites a description for the crate, without the rejected candidates; also returns the targets of the others.
    ///
    /// # Errors
    /// As [`sdp::rewrite`].
    pub(super) fn describe(
        &mut self,
        sdp: &str,
        now: Instant,
    ) -> Result<(Rewritten, Vec<Target>), SdpError> {
        let mut values = Vec::new();
        let plain = sdp::rewrite(sdp, |value| {
            values.push(value.to_owned());
            false
        })?;
        let ufrag = ufrag(&plain.sdp);
        if self.ufrag.as_deref() != ufrag {
            self.ufrag = ufrag.map(str::to_owned);
            (self.taken, self.names) = (0, 0);
        }
        let mut targets = Vec::new();
        let rewritten = sdp::rewrite(sdp, |value| {
            let target = self.takes(value, now);
            targets.extend(target);
            target.is_some()
        })?;
        Ok((rewritten, targets))
    }

    /// Returns the target of a candidate and counts it, if it is accepted.
    pub(super) fn takes(&mut self, candidate: &str, now: Instant) -> Option<Target> {
        match self.judge(candidate, now) {
            Ok(target) => target,
            Err(why) => {
                self.complain(&why);
                None
            }
        }
    }

    /// Returns `None` for a candidate that is useless, but not worth a warning.
    fn judge(&mut self, candidate: &str, now: Instant) -> Result<Option<Target>, String> {
        if candidate.len() > MAX_BYTES {
            return Err(format!("it has more than {MAX_BYTES} bytes"));
        }
        // As the crate does for trickled candidates.
        let value = candidate.strip_prefix("candidate:").unwrap_or(candidate);
        let candidate = unmarshal_candidate(value).map_err(|error| error.to_string())?;
        // Every browser also signals its TCP candidates. The crate would connect to passive ones.
        if candidate.network_type().is_tcp() {
            return Ok(None);
        }
        let target = target(&candidate)?;
        if self.taken >= MAX_TAKEN {
            return Err(format!("there are already {MAX_TAKEN} candidates"));
        }
        if target == Target::Name && self.names >= MAX_NAMES {
            return Err(format!("there are already {MAX_NAMES} names"));
        }
        if !self.over_time.take(now) {
            return Err("too many arrived within a short time".into());
        }
        self.taken += 1;
        if let Target::Address(address, kind) = target {
            // `OVER_TIME` limits only the rate; a device that moves leaves its old addresses behind.
            if self.kinds.len() >= 4 * MAX_TAKEN {
                self.kinds.clear();
            }
            self.kinds.insert(address, kind);
        }
        self.names += usize::from(target == Target::Name);
        Ok(Some(target))
    }

    /// The type that an address was signaled with: if a check arrives before its candidate, the crate considers the
    /// address peer reflexive, and does not correct that later.
    pub(super) fn kind_of(&self, address: SocketAddr) -> Option<CandidateType> {
        self.kinds.get(&SocketAddr::new(address.ip().to_canonical(), address.port())).copied()
    }

    /// Logs a rejected candidate, as a warning only the first time: a flood would fill the log.
    pub(super) fn complain(&mut self, why: &str) {
        if std::mem::replace(&mut self.warned, true) {
            tracing::debug!("ignoring a candidate from the peer: {why:?}");
        } else {
            tracing::warn!("ignoring a candidate from the peer: {why:?} (reported once)");
        }
    }
}

/// The target of a candidate, or the reason why the peer cannot be reached at it.
fn target(candidate: &Candidate) -> Result<Target, &'static str> {
    let (address, port) = (candidate.address(), candidate.port());
    if port == 0 {
        return Err("its port is 0");
    }
    let Ok(ip) = address.parse::<IpAddr>() else {
        return if is_mdns_name(address) {
            Ok(Target::Name)
        } else {
            Err("only mDNS names are looked up")
        };
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let no_scope = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    match ip.to_canonical() {
        ip if ip.is_unspecified() => Err("its address is unspecified"),
        ip if ip.is_multicast() || broadcast => {
            Err("its address is a multicast or broadcast address")
        }
        _ if no_scope => Err("its address is link-local without a scope"),
        ip => {
            let kind =
                candidate.candidate_type().to_string().parse().unwrap_or(CandidateType::Host);
            Ok(Target::Address(SocketAddr::new(ip, port), kind))
        }
    }
}

/// Whether this is a single label followed by `.local` (draft-ietf-mmusic-mdns-ice-candidates §3.1.1).
fn is_mdns_name(address: &str) -> bool {
    let label = address.strip_suffix(".local").unwrap_or_default();
    let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !label.is_empty() && address.len() <= MAX_NAME_BYTES && label.bytes().all(ordinary)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn candidate(address: &str, port: u16) -> String {
        format!("candidate:1 1 udp 2122260223 {address} {port} typ host generation 0")
    }

    fn taken(candidate: &str) -> Option<Target> {
        RemoteCandidates::default().takes(candidate, Instant::now())
    }

    #[test]
    fn unspecified_and_multicast_addresses_are_rejected() {
        let name = "6a5c5c9e-8d0f-4f0b-9d3c-0c0d1a2b3c4d.local";
        for good in
            ["192.0.2.7", "10.1.2.3", "127.0.0.1", "169.254.1.1", "2001:db8::1", "::1", name]
        {
            assert!(taken(&candidate(good, 9)).is_some(), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "239.1.2.3",
            "::ffff:224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fe80::1",
            "example.com",
            "attacker.example",
            "attacker.example.local",
            ".local",
            "local",
            "1.2.3",
        ] {
            assert!(taken(&candidate(bad, 9)).is_none(), "{bad}");
        }
        assert!(taken(&candidate("192.0.2.7", 0)).is_none());
        assert!(taken(&candidate(&format!("{}.local", "x".repeat(64)), 9)).is_none());
        assert!(taken(&format!("{} {}", candidate("192.0.2.7", 9), "x".repeat(1024))).is_none());
        for bad in ["", "candidate:", "candidate:1 1 udp", "garbage"] {
            assert!(taken(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn tcp_candidates_are_ignored() {
        for tcp in [
            "tcp 1 192.0.2.7 9 typ host tcptype active",
            "TCP 1 192.0.2.7 9 typ host tcptype passive",
        ] {
            assert_eq!(taken(&format!("candidate:1 1 {tcp}")), None, "{tcp}");
        }
    }

    #[test]
    fn an_address_has_the_type_it_was_signaled_with() {
        let mut candidates = RemoteCandidates::default();
        let now = Instant::now();
        let relay = "candidate:1 1 udp 1 192.0.2.7 9 typ relay raddr 10.0.0.1 rport 8";
        candidates.takes(relay, now);
        candidates.takes(&candidate("2001:db8::1", 9), now);
        let kind = |address: &str| candidates.kind_of(address.parse().unwrap());
        assert_eq!(kind("192.0.2.7:9"), Some(CandidateType::Relay));
        assert_eq!(kind("[::ffff:192.0.2.7]:9"), Some(CandidateType::Relay));
        assert_eq!(kind("[2001:db8::1]:9"), Some(CandidateType::Host));
        assert_eq!(kind("192.0.2.7:10"), None);
        for port in 1..=10_000 {
            candidates.takes(&candidate("192.0.2.8", port), now + Duration::from_secs(port.into()));
        }
        assert!(candidates.kinds.len() <= 4 * MAX_TAKEN);
    }

    /// The crate splits at any white space, so a candidate can be written in several forms.
    #[test]
    fn the_filter_reads_the_address_that_the_crate_uses() {
        let address = Target::Address("192.0.2.7:9".parse().unwrap(), CandidateType::Host);
        for good in [
            "candidate:1 1 udp 1 192.0.2.7 9 typ host",
            "1 1 udp 1 192.0.2.7 9 typ host",
            "candidate: 1 1 udp 1 192.0.2.7 9 typ host",
            "candidate:1\r\n1\tudp 1\u{a0}192.0.2.7\n9 typ host",
        ] {
            assert_eq!(taken(good), Some(address), "{good:?}");
        }
        for bad in [
            "candidate: 1 1 udp 1 224.0.0.1 9 typ host",
            "candidate:1 1 udp\n1 224.0.0.1 9 typ host",
            "candidate:192.0.2.7 1 udp 1 224.0.0.1 9 typ host",
        ] {
            assert_eq!(taken(bad), None, "{bad:?}");
        }
    }

    fn description(ufrag: &str, begin: &str, count: u16) -> String {
        let many = (1..=count).map(|port| format!("{begin}{}\r\n", candidate("192.0.2.7", port)));
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 102\r\n\
             a=rtpmap:102 H264/90000\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:password\r\n{}a=end-of-candidates\r\n",
            many.collect::<String>()
        )
    }

    fn count(candidates: &mut RemoteCandidates, sdp: &str, now: Instant) -> usize {
        let (rewritten, targets) = candidates.describe(sdp, now).unwrap();
        assert!(rewritten.sdp.ends_with("a=end-of-candidates\r\n"));
        assert_eq!(rewritten.sdp.matches("candidate:").count(), targets.len());
        targets.len()
    }

    #[test]
    fn candidates_of_a_generation_are_bounded() {
        let now = Instant::now();
        for begin in ["a=", "\ra=", "a= "] {
            let mut candidates = RemoteCandidates::default();
            let one = description("one", begin, 600);
            assert_eq!(count(&mut candidates, &one, now), MAX_TAKEN, "{begin:?}");
            assert!(candidates.takes(&candidate("192.0.2.8", 9), now).is_none());
            assert_eq!(count(&mut candidates, &one, now), 0, "the same generation");
            let two = description("two", begin, 600);
            assert_eq!(count(&mut candidates, &two, now), MAX_TAKEN, "after an ICE restart");
        }
    }

    #[test]
    fn candidates_of_many_generations_are_bounded() {
        let start = Instant::now();
        let mut candidates = RemoteCandidates::default();
        let mut taken = 0;
        for generation in 0..600_u32 {
            let sdp = description(&format!("u{generation}"), "a=", 64);
            taken += count(&mut candidates, &sdp, start + generation * Duration::from_millis(100));
        }
        // 256 in a burst, and two a second for one minute.
        assert!((256..=256 + 120).contains(&taken), "{taken}");
        // A moving device restarts ICE every four seconds.
        let later = start + Duration::from_hours(1);
        for generation in 0..100_u32 {
            let sdp = description(&format!("v{generation}"), "a=", 8);
            let now = later + generation * Duration::from_secs(4);
            assert_eq!(count(&mut candidates, &sdp, now), 8);
        }
    }

    #[test]
    fn mdns_names_are_bounded() {
        let mut candidates = RemoteCandidates::default();
        let now = Instant::now();
        let names =
            (0..64).filter_map(|n| candidates.takes(&candidate(&format!("{n}.local"), 9), now));
        assert_eq!(names.count(), MAX_NAMES);
    }
}
