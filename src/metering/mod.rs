//! How many at a time and how often, under a key such as an address: what the signaling server, the HTTP
//! listener and the TURN server limit clients with.

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

    /// Whether it holds all it can: nothing need be remembered of its key.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        let gained = passed / self.rate.period.as_secs_f64().max(1e-9);
        self.tokens + gained >= f64::from(self.rate.burst.get())
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

/// Buckets of a [`HashedRate`]: 512 KiB, and a flood from made-up addresses needs 65,536 times the rate to
/// empty them all.
const BUCKETS: usize = 1 << 16;

/// A rate for each key in a fixed amount of memory, for keys anybody can make up, such as the source
/// address of a datagram. Keys whose secret hashes meet share a bucket.
///
/// Each bucket is one number (GCRA, ITU-T I.371): when it is full again, microseconds after the start.
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

    /// Takes one for `key`; false when there is none.
    pub fn take(&mut self, key: &impl Hash, now: Instant) -> bool {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let now = micros(now.saturating_duration_since(self.started));
        let period = micros(self.rate.period);
        let most = period.saturating_mul(self.rate.burst.get().into());
        let bucket = (self.hasher.hash_one(key) % BUCKETS as u64) as usize;
        let full_at = self.full_at[bucket].max(now).saturating_add(period);
        let enough = full_at - now <= most;
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
    fn bucket_gives_the_burst_and_then_the_rate() {
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
    fn a_bucket_is_full_once_all_it_gave_is_back() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::new(2, Duration::from_secs(1)), start);
        assert!(bucket.is_full(start));
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        assert!(!bucket.is_full(start + Duration::from_millis(1900)));
        assert!(bucket.is_full(start + Duration::from_millis(2100)));
    }

    #[test]
    fn a_hashed_rate_gives_each_key_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut rate = HashedRate::new(Rate::new(5, Duration::from_millis(100)), start);
        let taken =
            |rate: &mut HashedRate, key, now| (0..100).filter(|_| rate.take(&key, now)).count();
        assert_eq!(taken(&mut rate, 1, start), 5);
        assert_eq!(taken(&mut rate, 1, start + Duration::from_millis(310)), 3);
        assert_eq!(taken(&mut rate, 1, start + Duration::from_hours(1)), 5, "no more is saved up");
        // Of 20 other keys, one may share the bucket of the first.
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
        // Three keys a bucket on average: most other keys still find some of their burst.
        let served = (300_000..301_000_u32).filter(|key| rate.take(key, start)).count();
        assert!(served > 700, "{served}");
    }
}
