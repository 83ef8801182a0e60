//! How the packets of one access unit arrived: duration, rate and bursts.
//!
//! libwebrtc's pacer sends all due packets back to back and then waits about 40 ms
//! (`PacingController::kDefaultBurstInterval`). Within a burst the slowest link of the path determines the spacing of
//! packets (packet-train dispersion, as in Dovrolis, Ramanathan and Moore, "What do packet dispersion techniques
//! measure?", INFOCOM 2001), so bursts show the rate of the path although the sender uses only a part of it.

use std::time::Duration;

/// A gap this much longer than the usual one, and [`PAUSE_RATIO`] times as long, is a pause between bursts. Shorter
/// ones are stalls of a busy receiver, which then reads several packets at the same time.
const PAUSE: Duration = Duration::from_millis(5);

/// See [`PAUSE`].
const PAUSE_RATIO: f64 = 1.6;

/// Minimum number of gaps within bursts for an estimate of the path rate.
const MIN_GAPS: usize = 8;

/// Minimum share of pauses that distinguishes bursts from uneven arrival.
const PAUSED_SHARE: f64 = 0.2;

/// One packet of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Time since the first packet.
    pub at: Duration,
    /// Size of its IP packet, bytes.
    pub bytes: usize,
    /// Whether it had been requested again.
    pub retransmitted: bool,
}

/// How one access unit arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes of its IP packets.
    pub bytes: u64,
    /// Number of its packets that were retransmissions.
    pub retransmitted: u32,
    /// From the first packet to the last.
    pub spread: Duration,
    /// From the first packet to the last one that was not a retransmission.
    pub original: Duration,
    /// Rate of the packets that were not retransmissions, bits/s; none for a single packet, or for packets that were
    /// read at the same instant.
    pub rate: Option<u64>,
    /// Rate according to the median gap between two of them, bits/s: that of a path that was busy most of the time.
    pub usual_rate: Option<u64>,
    /// The bursts in which it arrived; none when it arrived evenly.
    pub bursts: Option<Bursts>,
}

/// Packets that arrived in bursts with pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bursts {
    /// Rate within the bursts, bits/s.
    pub rate: u64,
    /// Duration of the longest burst.
    pub longest: Duration,
    /// Median time from the start of a burst to the start of the next one.
    pub period: Duration,
}

impl Delivery {
    /// Evaluates the packets of an access unit, in any order.
    #[must_use]
    pub fn of(mut arrivals: Vec<Arrival>) -> Self {
        arrivals.sort_by_key(|arrival| arrival.at);
        let bytes = arrivals.iter().map(|arrival| arrival.bytes as u64).sum();
        let retransmitted = arrivals.iter().filter(|arrival| arrival.retransmitted).count() as u32;
        let ends = |of: &[Arrival]| match of {
            [first, .., last] => last.at.saturating_sub(first.at),
            _ => Duration::ZERO,
        };
        let spread = ends(&arrivals);
        arrivals.retain(|arrival| !arrival.retransmitted);
        let original = ends(&arrivals);
        let after_first: u64 = arrivals.iter().skip(1).map(|arrival| arrival.bytes as u64).sum();
        let rate = bits_per_second(after_first, original);
        let gaps = gaps(&arrivals);
        let packet = after_first.checked_div(gaps.len() as u64).unwrap_or_default();
        let usual_rate = median(gaps.clone()).and_then(|gap| bits_per_second(packet, gap));
        let bursts = bursts(&arrivals, &gaps);
        Self { bytes, retransmitted, spread, original, rate, usual_rate, bursts }
    }

    /// Additional time for retransmissions.
    #[must_use]
    pub fn repair(&self) -> Duration {
        self.spread.saturating_sub(self.original)
    }
}

/// Rate of `bytes` in `time`, bits/s; none if the time is zero.
fn bits_per_second(bytes: u64, time: Duration) -> Option<u64> {
    let rate = bytes as f64 * 8.0 / time.as_secs_f64();
    (bytes > 0 && rate.is_finite()).then_some(rate as u64)
}

/// The gaps between packets in the order they arrived.
fn gaps(arrivals: &[Arrival]) -> Vec<Duration> {
    arrivals.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at)).collect()
}

/// The bursts of packets in the order they arrived, with the gaps between them.
fn bursts(arrivals: &[Arrival], gaps: &[Duration]) -> Option<Bursts> {
    let usual = median(gaps.to_vec())?;
    let is_pause = |gap: Duration| gap > usual.mul_f64(PAUSE_RATIO) && gap > usual + PAUSE;
    let (mut bytes, mut within) = (0, Vec::new());
    let (mut longest, mut paused) = (Duration::ZERO, Duration::ZERO);
    let mut starts = vec![Duration::ZERO];
    for (gap, next) in gaps.iter().zip(&arrivals[1..]) {
        if is_pause(*gap) {
            starts.push(next.at);
            paused += *gap;
            continue;
        }
        bytes += next.bytes as u64;
        within.push(*gap);
        longest = longest.max(next.at.saturating_sub(*starts.last()?));
    }
    let busy: Duration = within.iter().sum();
    let all = (paused + busy).as_secs_f64();
    if within.len() < MIN_GAPS || paused.as_secs_f64() < all * PAUSED_SHARE {
        return None;
    }
    let period = median(starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect())?;
    // Packets that a stalled receiver reads together shorten the sum, but not the median gap.
    let usual = bits_per_second(bytes / within.len() as u64, median(within)?);
    let rate = bits_per_second(bytes, busy)?;
    Some(Bursts { rate: usual.map_or(rate, |usual| usual.min(rate)), longest, period })
}

/// Median of the values, the lower of two middle ones; `None` if there are no values.
pub(super) fn median<T: Copy + Ord>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(times_us: &[u64]) -> Vec<Arrival> {
        let arrival = |us: &u64| Arrival {
            at: Duration::from_micros(*us),
            bytes: 1250,
            retransmitted: false,
        };
        times_us.iter().map(arrival).collect()
    }

    /// Like Chromium's packets of a 100 KB keyframe over 5 Mbit/s: four or five in a burst.
    #[test]
    fn bursts_show_the_path_rate() {
        let burst = |nth: u64| (0..4).map(move |packet| nth * 42_000 + packet * 2_000);
        let delivery = Delivery::of(arrivals(&(0..20).flat_map(burst).collect::<Vec<_>>()));
        let bursts = delivery.bursts.unwrap();
        assert_eq!(bursts.rate, 5_000_000);
        assert_eq!(bursts.period, Duration::from_millis(42));
        assert_eq!(bursts.longest, Duration::from_millis(6));
        assert_eq!(delivery.spread, Duration::from_millis(19 * 42 + 6));
        assert_eq!(delivery.rate, Some((79.0 * 1250.0 * 8.0 / 0.804) as u64));
    }

    /// Over 1 Mbit/s the pauses are hardly longer than the packets.
    #[test]
    fn short_pauses_between_slow_packets_are_found() {
        let burst = |nth: u64| (0..4).map(move |packet| nth * 52_000 + packet * 10_000);
        let delivery = Delivery::of(arrivals(&(0..20).flat_map(burst).collect::<Vec<_>>()));
        assert_eq!(delivery.bursts.unwrap().rate, 1_000_000);
    }

    #[test]
    fn even_packets_and_a_stall_are_not_bursts() {
        let mut even: Vec<u64> = (0..80).map(|packet| packet * 5_000).collect();
        assert_eq!(Delivery::of(arrivals(&even)).bursts, None);
        assert_eq!(Delivery::of(arrivals(&even)).rate, Some(2_000_000));
        // The sender paused for a while: the total rate falls, but that of most packets does not.
        let held: Vec<u64> =
            even.iter().map(|at| at + if *at > 200_000 { 80_000 } else { 0 }).collect();
        let held = Delivery::of(arrivals(&held));
        assert!(held.rate < Some(1_700_000) && held.usual_rate == Some(2_000_000), "{held:?}");
        // The receiver was busy for 20 ms, then read four packets together.
        for late in &mut even[30..34] {
            *late = 34 * 5_000;
        }
        assert_eq!(Delivery::of(arrivals(&even)).bursts, None);
    }

    /// Long stalls look like pauses: packets read together after them do not show the path's rate.
    #[test]
    fn long_stalls_do_not_raise_the_rate() {
        let read = |packet: u64| match packet % 40 {
            0..10 => (packet / 40 * 40 + 10) * 5_000,
            _ => packet * 5_000,
        };
        let stalled = Delivery::of(arrivals(&(0..200).map(read).collect::<Vec<_>>()));
        assert_eq!(stalled.bursts.unwrap().rate, 2_000_000);
    }

    #[test]
    fn retransmissions_count_in_the_spread_alone() {
        let mut packets = arrivals(&(0..20).map(|packet| packet * 1_000).collect::<Vec<_>>());
        packets[7] = Arrival { at: Duration::from_millis(90), retransmitted: true, ..packets[7] };
        let delivery = Delivery::of(packets);
        assert_eq!((delivery.retransmitted, delivery.bytes), (1, 20 * 1250));
        assert_eq!(delivery.spread, Duration::from_millis(90));
        assert_eq!(delivery.original, Duration::from_millis(19));
    }

    #[test]
    fn a_packet_alone_and_packets_at_one_instant_have_no_rate() {
        assert_eq!(Delivery::of(Vec::new()), Delivery::default());
        assert_eq!(Delivery::of(arrivals(&[0])).rate, None);
        let simultaneous = Delivery::of(arrivals(&[0; 50]));
        assert_eq!((simultaneous.rate, simultaneous.bursts), (None, None));
    }
}
