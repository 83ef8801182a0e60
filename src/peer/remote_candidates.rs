//! Which candidates of the other side are taken (RFC 8839 §5.1, RFC 8445 §5.1 and §6.1.2.5).
//!
//! The `rtc` crate pairs each with every local candidate and checks every pair at each tick. Whoever told of
//! thousands, or of the address of a group, would have this machine flood others.

use std::net::IpAddr;

use super::sdp::ufrag;

/// Candidates taken of one ICE generation; a device has a dozen. A signaling server holds as many with an offer.
const MAX_TAKEN: usize = 64;

/// The candidates of the other side, on one connection.
#[derive(Debug, Default)]
pub(super) struct RemoteCandidates {
    /// Of the last description: another one is another generation.
    ufrag: Option<String>,
    taken: usize,
    complained: bool,
}

impl RemoteCandidates {
    /// A description as the crate gets it: without the candidates that are not taken.
    pub(super) fn describe(&mut self, sdp: &str) -> String {
        let ufrag = ufrag(sdp);
        if self.ufrag.as_deref() != ufrag {
            self.ufrag = ufrag.map(str::to_owned);
            self.taken = 0;
        }
        let takes = |line: &&str| !line.starts_with("a=candidate:") || self.takes(line);
        sdp.split_inclusive('\n').filter(takes).collect()
    }

    /// Whether a candidate is taken; it counts then.
    pub(super) fn takes(&mut self, candidate: &str) -> bool {
        let why = match unusable(candidate) {
            None if self.taken < MAX_TAKEN => {
                self.taken += 1;
                return true;
            }
            None => "there are 64 already",
            Some(why) => why,
        };
        self.complain(why);
        false
    }

    /// Says that a candidate was not taken: aloud once, for a flood would fill the log.
    pub(super) fn complain(&mut self, why: &str) {
        if std::mem::replace(&mut self.complained, true) {
            tracing::debug!("a candidate of the other side is left out: {why}");
        } else {
            tracing::warn!("a candidate of the other side is left out: {why} (told once)");
        }
    }
}

/// Why nobody can be reached by a candidate, when that shows.
fn unusable(candidate: &str) -> Option<&'static str> {
    let mut words = candidate.split_whitespace().skip(4);
    let (address, port) = (words.next()?, words.next()?);
    if port.parse::<u16>().is_ok_and(|port| port == 0) {
        return Some("its port is 0");
    }
    let Ok(ip) = address.parse::<IpAddr>() else {
        let named = address.to_ascii_lowercase().ends_with(".local");
        return (!named).then_some("names but those of mDNS are not looked up");
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let no_scope = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    match ip.to_canonical() {
        ip if ip.is_unspecified() => Some("its address is none"),
        ip if ip.is_multicast() || broadcast => Some("its address is that of many"),
        _ if no_scope => Some("its address is of one link, and does not say which"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str, port: u16) -> String {
        format!("candidate:1 1 udp 2122260223 {address} {port} typ host generation 0")
    }

    #[test]
    fn addresses_of_nobody_and_of_many_are_left_out() {
        let name = "6a5c5c9e-8d0f-4f0b-9d3c-0c0d1a2b3c4d.local";
        for good in
            ["192.0.2.7", "10.1.2.3", "127.0.0.1", "169.254.1.1", "2001:db8::1", "::1", name]
        {
            assert_eq!(unusable(&candidate(good, 9)), None, "{good}");
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
            "local",
            "1.2.3",
        ] {
            assert!(unusable(&candidate(bad, 9)).is_some(), "{bad}");
        }
        assert!(unusable(&candidate("192.0.2.7", 0)).is_some());
        // Too short to say: the crate does.
        assert_eq!(unusable("candidate:1 1 udp"), None);
    }

    #[test]
    fn a_generation_has_its_number_of_candidates() {
        let mut candidates = RemoteCandidates::default();
        let lines = |ufrag: &str| {
            let many = (1..=1000).map(|port| format!("a={}\r\n", candidate("192.0.2.7", port)));
            format!(
                "v=0\r\na=ice-ufrag:{ufrag}\r\n{}a=end-of-candidates\r\n",
                many.collect::<String>()
            )
        };
        let count = |sdp: &str| sdp.matches("a=candidate:").count();
        let taken = candidates.describe(&lines("one"));
        assert_eq!(count(&taken), MAX_TAKEN);
        assert!(taken.starts_with("v=0\r\n") && taken.ends_with("\r\na=end-of-candidates\r\n"));
        assert!(!candidates.takes(&candidate("192.0.2.8", 9)));
        assert_eq!(count(&candidates.describe(&lines("one"))), 0, "the same generation");
        assert_eq!(count(&candidates.describe(&lines("two"))), MAX_TAKEN, "after an ICE restart");
    }
}
