//! What a link does to packets.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

/// What a link does to the packets of each direction. The default does nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// How many packets are lost in a row; 0 and 1 mean each on its own.
    pub loss_burst: u32,
    /// One way.
    pub delay: Duration,
    /// Up to this much more delay, evenly distributed; packets may overtake each other.
    pub jitter: Duration,
    /// Bits a second; what comes faster waits in a queue, and is dropped when that is full.
    pub rate: Option<u64>,
}

impl Link {
    /// Whether it does nothing.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.loss > 0.0 {
            parts.push(match self.loss_burst {
                0 | 1 => format!("{} % loss", self.loss * 100.0),
                burst => format!("{} % loss in bursts of {burst}", self.loss * 100.0),
            });
        }
        if !self.delay.is_zero() {
            parts.push(format!("{:?} delay", self.delay));
        }
        if !self.jitter.is_zero() {
            parts.push(format!("{:?} jitter", self.jitter));
        }
        if let Some(rate) = self.rate {
            parts.push(match rate {
                1_000_000.. => format!("{} Mbit/s", rate as f64 / 1e6),
                _ => format!("{} kbit/s", rate as f64 / 1e3),
            });
        }
        if parts.is_empty() {
            return f.write_str("clear");
        }
        f.write_str(&parts.join(", "))
    }
}

/// Which versions of IP a network has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IpVersions {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone, as many carriers have it.
    V6,
    /// Both.
    Both,
}

impl IpVersions {
    /// Whether IPv4 is one of them.
    #[must_use]
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is one of them.
    #[must_use]
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// Text that is no [`IpVersions`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no versions of IP: write ipv4, ipv6 or ipv4+ipv6")]
pub struct IpVersionsError(String);

impl FromStr for IpVersions {
    type Err = IpVersionsError;

    fn from_str(text: &str) -> Result<Self, IpVersionsError> {
        match text {
            "ipv4" => Ok(Self::V4),
            "ipv6" => Ok(Self::V6),
            "ipv4+ipv6" | "ipv6+ipv4" => Ok(Self::Both),
            _ => Err(IpVersionsError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        let link = Link {
            loss: 0.02,
            loss_burst: 0,
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(5),
            rate: Some(2_000_000),
        };
        assert_eq!(link.to_string(), "2 % loss, 40ms delay, 5ms jitter, 2 Mbit/s");
        let bursts = Link { loss: 0.05, loss_burst: 10, ..Link::default() };
        assert_eq!(bursts.to_string(), "5 % loss in bursts of 10");
        assert_eq!(Link::default().to_string(), "clear");
        assert!(Link::default().is_clear() && !link.is_clear());
        assert_eq!(Link { rate: Some(64_000), ..Link::default() }.to_string(), "64 kbit/s");
    }
}
