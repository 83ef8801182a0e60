//! Properties of a link.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Serialize, Serializer};

use crate::units;

/// Properties of a link, the same for each direction. The default is a link without impairment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkSettings {
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Packets lost in a row; 0 and 1 mean independent losses.
    pub loss_burst: u32,
    /// One-way delay.
    pub delay: Duration,
    /// Maximum additional random delay, uniformly distributed; packets may be reordered.
    pub jitter: Duration,
    /// Bits per second; excess traffic waits in a queue and is dropped when the queue is full.
    pub rate: Option<u64>,
    /// Size of that queue; `None` means [`Queue::of_router`].
    pub queue: Option<Queue>,
}

/// Size of a queue, for one direction of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Queue {
    /// A number of bytes.
    Bytes(u64),
    /// The amount that the rate carries in this time.
    Time(Duration),
}

/// Queue time of a router, twice the 50 ms that `CableLabs` recommends for cable modems (CM-GL-Buffer,
/// section 6).
const ROUTER_TIME: Duration = Duration::from_millis(100);

/// Minimum queue size of a router in bytes: the smallest size that Kreibich et al. found to be common for
/// uplinks (64, 128 and 256 KiB; Netalyzr, IMC 2010).
const ROUTER_BYTES: u64 = 65_536;

impl Queue {
    /// The queue of a home router or modem in front of a link of this rate in bit/s: 100 ms, and at least
    /// 64 KiB.
    #[must_use]
    pub fn of_router(rate: u64) -> Self {
        Self::Bytes(ROUTER_BYTES.max(Self::Time(ROUTER_TIME).bytes(rate)))
    }

    /// The size in bytes at this rate.
    #[must_use]
    pub fn bytes(self, rate: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Time(time) => (rate as f64 * time.as_secs_f64() / 8.0) as u64,
        }
    }
}

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `0` is both a size and a time, and passes no packet in either case.
        match (units::size(text), units::duration(text)) {
            (Ok(0), _) | (_, Ok(Duration::ZERO)) => {
                Err("a queue of size 0 passes no packets".to_owned())
            }
            (Ok(bytes), _) => Ok(Self::Bytes(bytes)),
            (_, Ok(time)) => Ok(Self::Time(time)),
            _ => Err(format!(
                "`{text}` is not a valid queue: expected a size such as 32KB, or a time such as 100ms"
            )),
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) if bytes % 1000 == 0 => write!(f, "{}KB", bytes / 1000),
            Self::Bytes(bytes) if bytes % 1024 == 0 => write!(f, "{}KiB", bytes / 1024),
            Self::Bytes(bytes) => write!(f, "{bytes}B"),
            Self::Time(time) => write!(f, "{time:?}"),
        }
    }
}

impl Serialize for Queue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl LinkSettings {
    /// Whether the link has no impairment.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for LinkSettings {
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
        if let Some(queue) = self.queue {
            parts.push(format!("a queue of {queue}"));
        }
        if parts.is_empty() {
            return f.write_str("clear");
        }
        f.write_str(&parts.join(", "))
    }
}

/// IP versions of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IpVersions {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only, as in many carrier networks.
    V6,
    /// Both IPv4 and IPv6.
    Both,
}

impl IpVersions {
    /// Whether IPv4 is available.
    #[must_use]
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is available.
    #[must_use]
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// Text that is not a valid [`IpVersions`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid IP version: expected ipv4, ipv6 or ipv4+ipv6")]
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
    fn links_are_described_in_words() {
        let link = LinkSettings {
            loss: 0.02,
            loss_burst: 0,
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(5),
            rate: Some(2_000_000),
            queue: Some(Queue::Bytes(32_000)),
        };
        assert_eq!(link.to_string(), "2 % loss, 40ms delay, 5ms jitter, 2 Mbit/s, a queue of 32KB");
        let bursts = LinkSettings { loss: 0.05, loss_burst: 10, ..LinkSettings::default() };
        assert_eq!(bursts.to_string(), "5 % loss in bursts of 10");
        assert_eq!(LinkSettings::default().to_string(), "clear");
        assert!(LinkSettings::default().is_clear() && !link.is_clear());
        assert_eq!(
            LinkSettings { rate: Some(64_000), ..LinkSettings::default() }.to_string(),
            "64 kbit/s"
        );
    }

    #[test]
    fn a_queue_is_a_size_or_a_time() {
        for (text, queue, bytes) in [
            ("32KB", Queue::Bytes(32_000), 32_000),
            ("64KiB", Queue::Bytes(65_536), 65_536),
            ("1500B", Queue::Bytes(1500), 1500),
            ("100ms", Queue::Time(Duration::from_millis(100)), 25_000),
        ] {
            let read: Queue = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (queue, text));
            assert_eq!(read.bytes(2_000_000), bytes, "{text}");
        }
        assert!("0".parse::<Queue>().unwrap_err().contains("passes no packets"));
        assert!("2Mbit".parse::<Queue>().unwrap_err().contains("32KB"));
        assert_eq!(Queue::of_router(1_000_000), Queue::Bytes(65_536));
        assert_eq!(Queue::of_router(40_000_000), Queue::Bytes(500_000));
    }
}
