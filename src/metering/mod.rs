//! Concurrency and rate limits per key, such as an address. The signaling server, the HTTP listener and the
//! TURN server use them to limit clients.

pub mod slots;

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};

/// A rate limit: a burst, then one event per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Number of events allowed at the same time.
    pub burst: NonZeroU32,
    /// Time until one more event is allowed.
    pub period: Duration,
}

impl Rate {
    /// A burst of `burst`, then one event per `period`; a burst of 0 counts as 1.
    #[must_use]
    pub const fn new(burst: u32, period: Duration) -> Self {
        let burst = match NonZeroU32::new(burst) {
            Some(burst) => burst,
            None => NonZeroU32::MIN,
        };
        Self { burst, period }
    }
}

/// A token bucket; the time is an argument.
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

    /// Whether the bucket is full, so that its key can be forgotten.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        let gained = passed / self.rate.period.as_secs_f64().max(1e-9);
        self.tokens + gained >= f64::from(self.rate.burst.get())
    }
}

/// A rate limit per key, such as an address or a user.
#[derive(Debug)]
pub struct KeyedRate<K: Clone + Hash + Eq> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
}

impl<K: Clone + Hash + Eq> KeyedRate<K> {
    /// A full bucket for every key.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        // A period of zero means no limit.
        let quota = Quota::with_period(rate.period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MAX))
            .allow_burst(rate.burst);
        Self { limiter: DefaultKeyedRateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes one token for `key`.
    ///
    /// # Errors
    /// The time to wait, when there is none.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        self.limiter.check_key(key).map_err(|not_yet| not_yet.wait_time_from(self.clock.now()))
    }

    /// Forgets the keys whose buckets are full again.
    pub fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// The key under which an address is metered: the address itself, or for IPv6 its /64, which belongs to one host.
#[must_use]
pub fn metered(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Number of buckets of a [`HashedRate`]: 512 KiB, and a flood from spoofed addresses needs 65,536 times the
/// rate to empty them all.
const BUCKETS: usize = 1 << 16;

/// A rate limit per key in a fixed amount of memory, for keys that can be spoofed, such as the source
/// address of a datagram. Keys whose secret hashes collide share a bucket.
///
/// Each bucket is one number (GCRA, ITU-T I.371): the time at which it is full again, in microseconds after the
/// start.
#[derive(Debug)]
pub struct HashedRate {
    rate: Rate,
    full_at: Vec<u64>,
    hasher: RandomState,
    started: Instant,
}

impl HashedRate {
    /// Full buckets at the time `now`.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: vec![0; BUCKETS], hasher: RandomState::new(), started: now }
    }

    /// Takes one token for `key`; false when there is none.
    pub fn take(&mut self, key: &impl Hash, now: Instant) -> bool {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = micros(now.saturating_duration_since(self.started));
        let period = micros(self.rate.period);
        let capacity = period.saturating_mul(self.rate.burst.get().into());
        let bucket = (self.hasher.hash_one(key) % BUCKETS as u64) as usize;
        let full_at = self.full_at[bucket].max(now).saturating_add(period);
        let enough = full_at - now <= capacity;
        if enough {
            self.full_at[bucket] = full_at;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::new(100, Duration::from_millis(50)), start);
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

    #[test]
    fn a_bucket_is_full_once_all_tokens_are_back() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::new(2, Duration::from_secs(1)), start);
        assert!(bucket.is_full(start));
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        assert!(!bucket.is_full(start + Duration::from_millis(1900)));
        assert!(bucket.is_full(start + Duration::from_millis(2100)));
    }

    #[test]
    fn a_hashed_rate_allows_each_key_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut rate = HashedRate::new(Rate::new(5, Duration::from_millis(100)), start);
        let taken =
            |rate: &mut HashedRate, key, now| (0..100).filter(|_| rate.take(&key, now)).count();
        assert_eq!(taken(&mut rate, 1, start), 5);
        assert_eq!(taken(&mut rate, 1, start + Duration::from_millis(310)), 3);
        assert_eq!(taken(&mut rate, 1, start + Duration::from_hours(1)), 5, "no more is saved up");
        // One of 20 other keys may share the bucket of the first.
        let others = (2..22).filter(|key| taken(&mut rate, *key, start) == 5).count();
        assert!(others >= 19, "{others}");
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_memory() {
        let start = Instant::now();
        let mut rate = HashedRate::new(Rate::new(5, Duration::from_millis(100)), start);
        for key in 0..200_000_u32 {
            rate.take(&key, start);
        }
        assert_eq!((rate.full_at.len(), rate.full_at.capacity()), (BUCKETS, BUCKETS));
        // Three keys per bucket on average: most other keys still have part of their burst left.
        let served = (300_000..301_000_u32).filter(|key| rate.take(key, start)).count();
        assert!(served > 700, "{served}");
    }
}
