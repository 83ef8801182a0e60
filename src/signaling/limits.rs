//! Timings and limits of the signaling server, and what meters messages and requests.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

use crate::proto::signaling::MAX_MESSAGE_BYTES;

/// How long the server waits for what. The defaults are those of the wire contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// Between pings.
    pub ping_every: Duration,
    /// From a ping to its pong at the latest.
    pub pong_within: Duration,
    /// How long a live socket outlasts its token.
    pub expiry_grace: Duration,
    /// Between looks at whether the pairs of live sockets are still active.
    pub revocation_poll: Duration,
    /// For the close frame and the peer's answer to it.
    pub close_within: Duration,
    /// Sockets are closed at random times within this when the server drains.
    pub drain_jitter: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(25),
            pong_within: Duration::from_secs(10),
            expiry_grace: Duration::from_secs(25),
            revocation_poll: Duration::from_secs(10),
            close_within: Duration::from_secs(2),
            drain_jitter: Duration::from_secs(5),
        }
    }
}

/// A rate: so many at once, then one each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many may come at once.
    pub burst: NonZeroU32,
    /// Time until one more is allowed.
    pub period: Duration,
}

impl Rate {
    /// `burst` at once, then one each `period`; a burst of 0 counts as 1.
    #[must_use]
    pub const fn new(burst: u32, period: Duration) -> Self {
        let burst = match NonZeroU32::new(burst) {
            Some(burst) => burst,
            None => NonZeroU32::MIN,
        };
        Self { burst, period }
    }
}

/// How much the server takes. The defaults are those of the wire contract, where it names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages of one socket (contract: burst 100, then 20/s).
    pub messages: Rate,
    /// Messages over [`Limits::messages`] that are answered with an error before 4004.
    pub floods: Rate,
    /// Messages that break the schema and are answered with an error before 4504.
    pub schema_errors: Rate,
    /// Messages waiting for a slow socket (contract: 64).
    pub queue_messages: usize,
    /// Bytes waiting for a slow socket (contract: 256 KiB).
    pub queue_bytes: usize,
    /// Candidates held for a peer that is not there yet (contract: 64).
    pub held_candidates: usize,
    /// Bytes of offer and candidates held for a peer that is not there yet.
    pub held_bytes: usize,
    /// Sockets at once.
    pub sockets: u32,
    /// Handshakes from one address; `None` is no limit.
    pub handshakes: Option<Rate>,
    /// Handshakes for one pair; `None` is no limit.
    pub pair_handshakes: Option<Rate>,
    /// Handshakes of one user; `None` is no limit.
    pub user_handshakes: Option<Rate>,
    /// Sockets from one address at once; `None` is no limit.
    pub sockets_per_address: Option<u32>,
    /// Sockets of one user at once; `None` is no limit.
    pub sockets_per_user: Option<u32>,
    /// Longest message, bytes (contract: 64 KiB, which is the most it can be).
    pub message_bytes: usize,
}

impl Limits {
    /// The limits of a server whose clients are all of one machine and one user.
    #[must_use]
    pub fn for_one_machine() -> Self {
        Self {
            handshakes: None,
            pair_handshakes: None,
            user_handshakes: None,
            sockets_per_address: None,
            sockets_per_user: None,
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages: Rate::new(100, Duration::from_millis(50)),
            floods: Rate::new(10, Duration::from_secs(1)),
            schema_errors: Rate::new(4, Duration::from_secs(10)),
            queue_messages: 64,
            queue_bytes: 256 * 1024,
            held_candidates: 64,
            held_bytes: 256 * 1024,
            sockets: 20_000,
            handshakes: Some(Rate::new(60, Duration::from_millis(500))),
            pair_handshakes: Some(Rate::new(60, Duration::from_secs(1))),
            user_handshakes: Some(Rate::new(120, Duration::from_millis(500))),
            sockets_per_address: Some(1000),
            sockets_per_user: Some(50),
            message_bytes: MAX_MESSAGE_BYTES,
        }
    }
}

/// A token bucket; time is an argument.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    last: Instant,
}

impl TokenBucket {
    /// A full bucket at the time `now`.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst.get()), last: now }
    }

    /// Takes one token; false when there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        let gained = passed / self.rate.period.as_secs_f64().max(1e-9);
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst.get()));
        self.last = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// A rate for each key: an address, a user.
#[derive(Debug)]
pub struct KeyedRate<K: Clone + Hash + Eq> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
}

impl<K: Clone + Hash + Eq> KeyedRate<K> {
    /// A full bucket for every key.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        // A period of nothing is no limit.
        let quota = Quota::with_period(rate.period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(rate.burst);
        Self { limiter: DefaultKeyedRateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes one for `key`.
    ///
    /// # Errors
    /// How long to wait, when there is none.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        self.limiter.check_key(key).map_err(|not_yet| not_yet.wait_time_from(self.clock.now()))
    }

    /// Forgets the keys whose buckets are full again.
    pub fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// What an address is metered under: itself, or for IPv6 its /64, which one host has to itself.
#[must_use]
pub fn metered(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// What is counted against a socket.
pub(super) struct Meters {
    pub messages: TokenBucket,
    pub floods: TokenBucket,
    pub schema_errors: TokenBucket,
}

impl Meters {
    pub(super) fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            messages: TokenBucket::new(limits.messages, now),
            floods: TokenBucket::new(limits.floods, now),
            schema_errors: TokenBucket::new(limits.schema_errors, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Limits::default().messages, start);
        let taken = (0..1000).filter(|_| bucket.take(start)).count();
        assert_eq!(taken, 100);
        let later = start + Duration::from_millis(1010);
        let taken = (0..1000).filter(|_| bucket.take(later)).count();
        assert_eq!(taken, 20);
        let much_later = start + Duration::from_hours(1);
        let taken = (0..1000).filter(|_| bucket.take(much_later)).count();
        assert_eq!(taken, 100, "an idle socket saves up no more than the burst");
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let rate = KeyedRate::new(Rate::new(2, Duration::from_hours(1)));
        assert_eq!(rate.take(&1), Ok(()));
        assert_eq!(rate.take(&1), Ok(()));
        assert!(rate.take(&1).is_err_and(|wait| wait > Duration::from_mins(50)));
        assert_eq!(rate.take(&2), Ok(()));
    }

    #[test]
    fn an_ipv6_host_is_metered_as_its_network() {
        let metered = |text: &str| super::metered(text.parse().unwrap()).to_string();
        assert_eq!(metered("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(metered("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(metered("192.0.2.1"), "192.0.2.1");
    }
}
