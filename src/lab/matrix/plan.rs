//! What is measured of a pair of networks, and what theory expects of it.

use std::{fmt, str::FromStr, time::Duration};

use sha2::{Digest, Sha256};

use crate::nat::{Layer, NamedNetwork, Path, Profile, expected, theory::Relays};

/// Which transports the TURN server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transports {
    /// `turn:…?transport=udp`
    pub udp: bool,
    /// `turn:…?transport=tcp`
    pub tcp: bool,
    /// `turns:…?transport=tcp`
    pub tls: bool,
}

/// Text that is no list of TURN transports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no TURN transport: write udp, tcp, tls, several with commas, or none")]
pub struct TransportsError(pub String);

impl Transports {
    /// Every transport.
    pub const ALL: Self = Self { udp: true, tcp: true, tls: true };

    /// No TURN server at all.
    pub const NONE: Self = Self { udp: false, tcp: false, tls: false };

    /// As theory sees them.
    #[must_use]
    pub fn relays(self) -> Relays {
        Relays { udp: self.udp, stream: self.tcp || self.tls }
    }

    /// Their names, as written.
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
    /// Where the offering peer is.
    pub a: NamedNetwork,
    /// Where the answering peer is.
    pub b: NamedNetwork,
    /// Both are behind the same boxes, on local networks that do not see each other.
    pub same_nat: bool,
    /// What the TURN server offers.
    pub turn: Transports,
    /// Random choices of NATs and links begin here.
    pub seed: u64,
    /// What is to come out.
    pub expected: Path,
    /// The scenario it is of.
    pub scenario: Option<String>,
    /// Largest time to the first picture of each connection that is expected to be made; none for any.
    pub max_first_picture: Option<Duration>,
}

/// Networks that cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two peers behind one NAT are behind the same one.
    #[error("`{0}` and `{1}` are not the same NAT; with both peers behind one, give it once")]
    Different(String, String),
    /// Without a translation there is nothing to be behind together.
    #[error(
        "`{0}` does not translate addresses, so two peers cannot be behind it together; \
         choose a NAT, as in port or port:hairpin"
    )]
    NoNat(String),
}

impl CellPlan {
    /// A pair of networks of their own.
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

    /// Two peers behind one and the same NAT.
    ///
    /// # Errors
    /// [`PlanError`]: the two are not the same, or no NAT.
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

/// What two peers behind one NAT can expect, on local networks that do not see each other: a direct way
/// leads by its outside, which only hairpinning turns back (RFC 4787 §6). There it is as between two NATs
/// of the same kind.
#[must_use]
pub fn expected_behind_one(profile: &Profile, relays: Relays) -> Path {
    let outermost = profile.layers.iter().rev().find_map(|layer| match layer {
        Layer::Nat(nat) => Some(nat.hairpinning),
        _ => None,
    });
    match expected(profile, profile, relays) {
        Path::Direct if outermost == Some(false) => {
            // Relays by UDP are reached by whoever passes UDP, and one that has a direct way does.
            if relays.udp || relays.stream { Path::Relay } else { Path::None }
        }
        path => path,
    }
}

/// A seed of its own for each pair, the same wherever that pair is measured.
fn cell_seed(seed: u64, a: &str, b: &str) -> u64 {
    let digest = Sha256::digest(format!("{seed}\n{a}\n{b}"));
    let first = digest.iter().take(8).fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    // JSON numbers are exact up to 2^53.
    first >> 11
}

/// How much is measured of each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Connections made, one after the other.
    pub connections: u64,
    /// Pings over each.
    pub pings: u64,
    /// A set-up that takes longer is given up.
    pub timeout: Duration,
}

/// Time between pings.
pub const PING_INTERVAL: Duration = Duration::from_millis(20);

/// The picture that is sent once: small, so that encoding it does not disturb the other cells.
pub const PICTURE: (u32, u32) = (640, 360);

impl Default for Effort {
    fn default() -> Self {
        Self { connections: 1, pings: 10, timeout: Duration::from_secs(15) }
    }
}

impl Effort {
    /// After this long a pair is given up, whatever it does: every set-up at its limit, and as much
    /// again for what is measured then.
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
    fn transports_are_read_as_written() {
        for text in ["udp", "udp,tcp", "udp,tcp,tls", "tls", "none"] {
            assert_eq!(text.parse::<Transports>().unwrap().to_string(), text);
        }
        for text in ["", "sctp", "udp,none", "UDP"] {
            let error = text.parse::<Transports>().unwrap_err().to_string();
            assert!(error.contains("udp, tcp, tls"), "{error}");
        }
        assert!("tcp".parse::<Transports>().unwrap().relays().stream);
    }

    #[test]
    fn each_pair_has_a_seed_of_its_own_and_keeps_it() {
        assert_eq!(plan("port", "sym"), plan("port", "sym"));
        assert_ne!(plan("port", "sym").seed, plan("sym", "port").seed);
        assert!(plan("port", "sym").seed < 1 << 53);
    }

    #[test]
    fn behind_one_nat_hairpinning_decides() {
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
    fn a_deadline_leaves_room_for_every_connection() {
        let effort = Effort { connections: 3, ..Effort::default() };
        assert!(effort.deadline() > effort.timeout * 6);
    }
}
