//! The measurement plan for a pair of networks, and the path that theory predicts.

use std::{fmt, str::FromStr, time::Duration};

use sha2::{Digest, Sha256};

use crate::nat::{Layer, NamedNetwork, Path, Profile, expected, theory::Relays};

/// TURN transports that the server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transports {
    /// `turn:…?transport=udp`
    pub udp: bool,
    /// `turn:…?transport=tcp`
    pub tcp: bool,
    /// `turns:…?transport=tcp`
    pub tls: bool,
}

/// Text that is not a list of TURN transports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a TURN transport: expected udp, tcp or tls, separated by commas, or none")]
pub struct TransportsError(pub String);

impl Transports {
    /// Every transport.
    pub const ALL: Self = Self { udp: true, tcp: true, tls: true };

    /// No TURN server at all.
    pub const NONE: Self = Self { udp: false, tcp: false, tls: false };

    /// The transports as the theory models them.
    #[must_use]
    pub fn relays(self) -> Relays {
        Relays { udp: self.udp, stream: self.tcp || self.tls }
    }

    /// Transport names as written on the command line.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [("udp", self.udp), ("tcp", self.tcp), ("tls", self.tls)];
        all.into_iter().filter(|(_, offered)| *offered).map(|(name, _)| name).collect()
    }
}

impl Default for Transports {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Transports {
    type Err = TransportsError;

    fn from_str(text: &str) -> Result<Self, TransportsError> {
        let mut transports = Self::NONE;
        if text.trim() == "none" {
            return Ok(transports);
        }
        for word in text.split(',').map(str::trim) {
            match word {
                "udp" => transports.udp = true,
                "tcp" => transports.tcp = true,
                "tls" => transports.tls = true,
                _ => return Err(TransportsError(word.to_owned())),
            }
        }
        Ok(transports)
    }
}

impl fmt::Display for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names().as_slice() {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(",")),
        }
    }
}

/// A pair of networks, and how the peers behind them are connected.
#[derive(Debug, Clone, PartialEq)]
pub struct CellPlan {
    /// Network of the offering peer.
    pub a: NamedNetwork,
    /// Network of the answering peer.
    pub b: NamedNetwork,
    /// Both peers are behind the same NATs, on local networks isolated from each other.
    pub same_nat: bool,
    /// TURN transports offered.
    pub turn: Transports,
    /// Random seed of the NATs and links.
    pub seed: u64,
    /// Expected path.
    pub expected: Path,
    /// Name of the scenario it belongs to.
    pub scenario: Option<String>,
    /// Maximum time to the first picture of each connection that is expected to succeed; `None`: any.
    pub max_first_picture: Option<Duration>,
}

/// Networks that cannot be combined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The two peers have different NATs although they share one.
    #[error("`{0}` and `{1}` are not the same NAT; with both peers behind one, specify it once")]
    Different(String, String),
    /// The network has no NAT that two peers could share.
    #[error(
        "`{0}` does not translate addresses, so two peers cannot be behind it together; \
         choose a NAT, as in port or port:hairpin"
    )]
    NoNat(String),
}

impl CellPlan {
    /// Two peers, each in its own network.
    #[must_use]
    pub fn new(a: NamedNetwork, b: NamedNetwork, turn: Transports, seed: u64) -> Self {
        let expected = expected(&a.profile, &b.profile, turn.relays());
        let seed = cell_seed(seed, &a.name, &b.name);
        Self {
            a,
            b,
            same_nat: false,
            turn,
            seed,
            expected,
            scenario: None,
            max_first_picture: None,
        }
    }

    /// Two peers behind the same NAT.
    ///
    /// # Errors
    /// [`PlanError`] if the networks differ or contain no NAT.
    pub fn same_nat(
        a: NamedNetwork,
        b: NamedNetwork,
        turn: Transports,
        seed: u64,
    ) -> Result<Self, PlanError> {
        if a.profile != b.profile {
            return Err(PlanError::Different(a.name, b.name));
        }
        if a.profile.passes_udp() && !a.profile.translates() {
            return Err(PlanError::NoNat(a.name));
        }
        let expected = expected_behind_one(&a.profile, turn.relays());
        Ok(Self { same_nat: true, expected, ..Self::new(a, b, turn, seed) })
    }
}

/// The path that two peers behind one NAT can expect, on local networks isolated from each other: a direct
/// path leads through the NAT's external address, which requires hairpinning (RFC 4787 §6). With it, the
/// result is as between two NATs of that kind.
#[must_use]
pub fn expected_behind_one(profile: &Profile, relays: Relays) -> Path {
    let outermost = profile.layers.iter().rev().find_map(|layer| match layer {
        Layer::Nat(nat) => Some(nat.hairpinning),
        _ => None,
    });
    match expected(profile, profile, relays) {
        Path::Direct if outermost == Some(false) => {
            // UDP relays are reachable wherever UDP passes, and a peer with a direct path has UDP.
            if relays.udp || relays.stream { Path::Relay } else { Path::None }
        }
        path => path,
    }
}

/// Derives a seed per pair, which is the same in every run.
fn cell_seed(seed: u64, a: &str, b: &str) -> u64 {
    let digest = Sha256::digest(format!("{seed}\n{a}\n{b}"));
    let first = digest.iter().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    // JSON numbers are exact up to 2^53.
    first >> 11
}

/// How much to measure for each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Connections made, one after another.
    pub connections: u64,
    /// Pings per connection.
    pub pings: u64,
    /// Setup timeout.
    pub timeout: Duration,
}

/// Interval between pings.
pub const PING_INTERVAL: Duration = Duration::from_millis(20);

/// Size of the one picture sent: small, so that encoding it does not disturb the other cells.
pub const PICTURE: (u32, u32) = (640, 360);

impl Default for Effort {
    fn default() -> Self {
        Self { connections: 1, pings: 10, timeout: Duration::from_secs(15) }
    }
}

impl Effort {
    /// Time after which the measurement of a pair is abandoned: every setup at its timeout, and as much
    /// again for the measurements that follow.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let pings = PING_INTERVAL * u32::try_from(self.pings).unwrap_or(u32::MAX);
        let each = self.timeout * 2 + pings + Duration::from_secs(5);
        each * u32::try_from(self.connections).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::network;

    fn plan(a: &str, b: &str) -> CellPlan {
        CellPlan::new(network(a).unwrap(), network(b).unwrap(), Transports::ALL, 1)
    }

    #[test]
    fn transports_round_trip_through_text() {
        for text in ["udp", "udp,tcp", "udp,tcp,tls", "tls", "none"] {
            assert_eq!(text.parse::<Transports>().unwrap().to_string(), text);
        }
        for text in ["", "sctp", "udp,none", "UDP"] {
            let error = text.parse::<Transports>().unwrap_err().to_string();
            assert!(error.contains("udp, tcp or tls"), "{error}");
        }
        assert!("tcp".parse::<Transports>().unwrap().relays().stream);
    }

    #[test]
    fn each_pair_has_its_own_stable_seed() {
        assert_eq!(plan("port", "sym"), plan("port", "sym"));
        assert_ne!(plan("port", "sym").seed, plan("sym", "port").seed);
        assert!(plan("port", "sym").seed < 1 << 53);
    }

    #[test]
    fn behind_a_shared_nat_hairpinning_decides() {
        let same = |nat: &str, turn: &str| {
            let network = network(nat).unwrap();
            CellPlan::same_nat(network.clone(), network, turn.parse().unwrap(), 1)
                .map(|plan| plan.expected)
        };
        for (nat, turn, path) in [
            ("port", "udp", Path::Relay),
            ("port", "none", Path::None),
            ("port:hairpin", "none", Path::Direct),
            ("fullcone:hairpin", "udp", Path::Direct),
            ("sym:hairpin", "udp", Path::Relay),
            ("port:hairpin+port", "udp", Path::Relay),
            ("port+port:hairpin", "udp", Path::Direct),
            ("udp-blocked", "udp", Path::None),
            ("udp-blocked", "tls", Path::Relay),
        ] {
            assert_eq!(same(nat, turn), Ok(path), "{nat} with {turn}");
        }
        assert!(matches!(same("firewall", "udp"), Err(PlanError::NoNat(_))));
        let (port, sym) = (network("port").unwrap(), network("sym").unwrap());
        let error = CellPlan::same_nat(port, sym, Transports::ALL, 1).unwrap_err();
        assert!(error.to_string().contains("not the same NAT"), "{error}");
    }

    #[test]
    fn the_deadline_covers_every_connection() {
        let effort = Effort { connections: 3, ..Effort::default() };
        assert!(effort.deadline() > effort.timeout * 6);
    }
}
