//! Queueing on a path and its capacity, estimated from the arrival times of packets.
//!
//! A packet's transit time, less the minimum of all transit times, is the time it spent in queues. Only
//! differences between arrival times matter, so the receiver's clock is arbitrary. Single packets may be late
//! by chance; a queue makes all of them late. So the estimate uses the minimum of several packets: if it has
//! grown, the path was busy throughout, and packets arrived at exactly the rate that the path carries.

/// A packet that arrived. Both times are in seconds, each on its own peer's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it was sent, seconds.
    pub sent: f64,
    /// When it arrived, seconds.
    pub arrived: f64,
    /// Its size on the wire, bytes.
    pub bytes: f64,
}

impl Sample {
    /// Transit time plus the unknown offset between the clocks.
    #[must_use]
    pub fn transit(&self) -> f64 {
        self.arrived - self.sent
    }
}

/// The minimum transit time of these packets: that of an idle path.
#[must_use]
pub fn base(samples: &[Sample]) -> Option<f64> {
    samples.iter().map(Sample::transit).min_by(f64::total_cmp)
}

/// The state of the path's queue, from the last few packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queueing {
    /// Minimum time that one of the last packets spent in queues, seconds.
    pub queue: f64,
    /// Arrival rate since the queue began to grow, bits per second; if `queue` is clearly above zero, this is
    /// the capacity of the path.
    pub rate: f64,
    /// Packets arrive much faster than they were sent: a stalled receiver or link has resumed.
    pub falling: bool,
}

/// Compares the last `window` packets, in the order they were sent, with `base`.
#[must_use]
pub fn queueing(samples: &[Sample], base: f64, window: usize) -> Option<Queueing> {
    let queue_of = |sample: &Sample| sample.transit() - base;
    let recent = samples.len().checked_sub(window.max(1))?;
    let (last, queue) = lowest(&samples[recent..], queue_of)?;
    let last = recent + last;
    // The queue has not been empty since then.
    let since = samples[..last].iter().rposition(|sample| queue_of(sample) <= queue / 3.0);
    let mut since = since.unwrap_or(0);
    if last - since < 4 {
        // Too few for a rate.
        since = last.saturating_sub(window);
    }
    let rate = arrival_rate(&samples[since..=last])?;
    let (early, late) = samples[recent..].split_at(window / 2);
    let passed = mean(late, |sample| sample.sent) - mean(early, |sample| sample.sent);
    let falling = mean(late, queue_of) < mean(early, queue_of) - passed / 2.0;
    Some(Queueing { queue, rate, falling })
}

fn mean(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    samples.iter().map(of).sum::<f64>() / samples.len().max(1) as f64
}

fn lowest(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Option<(usize, f64)> {
    samples.iter().map(of).enumerate().min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Arrival rate of the packets after the first, bits per second.
#[must_use]
pub fn arrival_rate(samples: &[Sample]) -> Option<f64> {
    let (first, rest) = samples.split_first()?;
    Some(rate(rest, rest.last()?.arrived - first.arrived))
}

/// Send rate of the packets after the first, bits per second.
#[must_use]
pub fn send_rate(samples: &[Sample]) -> Option<f64> {
    let (first, rest) = samples.split_first()?;
    Some(rate(rest, rest.last()?.sent - first.sent))
}

/// If one half takes this many times as long as the other, it must contain a stall.
const STALL_RATIO: f64 = 4.0;

/// Arrivals are reported in steps of a quarter of a millisecond: no rate can be computed for less.
const RESOLUTION: f64 = 250e-6;

/// The rate of these packets if they took `span` seconds to arrive, bits per second.
#[must_use]
pub fn rate(samples: &[Sample], span: f64) -> f64 {
    let bytes: f64 = samples.iter().map(|sample| sample.bytes).sum();
    bytes * 8.0 / span.max(RESOLUTION)
}

/// For packets sent in one burst of which one half took much longer than the other, because a receiver
/// stalled: the rate of the other half, bits per second. A slow path is slow for both halves.
#[must_use]
pub fn between_stalls(samples: &[Sample]) -> Option<f64> {
    let middle = samples.get(samples.len() / 2)?;
    let (first, last) = (samples.first()?, samples.last()?);
    let halves = [middle.arrived - first.arrived, last.arrived - middle.arrived];
    let [short, long] = [halves[0].min(halves[1]), halves[0].max(halves[1])];
    let bytes: f64 = samples.iter().map(|sample| sample.bytes).sum();
    (long > STALL_RATIO * short.max(RESOLUTION)).then(|| bytes / 2.0 * 8.0 / short.max(RESOLUTION))
}

/// How uneven arrivals are without a queue: the median of the queueing times, seconds.
#[must_use]
pub fn unevenness(samples: &[Sample], base: f64) -> f64 {
    let mut queues: Vec<f64> = samples.iter().map(|sample| sample.transit() - base).collect();
    queues.sort_by(f64::total_cmp);
    queues.get(queues.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets sent one each `gap` ms through a link that needs `service` ms for each.
    fn through(count: usize, gap: f64, service: f64) -> Vec<Sample> {
        let mut free = 0.0_f64;
        (0..count)
            .map(|n| {
                let sent = n as f64 * gap / 1e3;
                free = free.max(sent) + service / 1e3;
                // The receiver's clock is an hour ahead; 20 ms in transit.
                Sample { sent, arrived: free + 3600.02, bytes: 1250.0 }
            })
            .collect()
    }

    #[test]
    fn a_path_that_is_fast_enough_has_no_queue() {
        let samples = through(50, 5.0, 4.0);
        let queueing = queueing(&samples, base(&samples).unwrap(), 8).unwrap();
        assert!(queueing.queue.abs() < 1e-9);
    }

    #[test]
    fn a_slow_path_shows_its_rate() {
        // First there is no queue, then packets are sent at twice the rate that the path carries.
        let mut samples = through(40, 5.0, 4.0);
        let begin = 0.2;
        for mut sample in through(40, 2.0, 4.0) {
            sample.sent += begin;
            sample.arrived += begin;
            samples.push(sample);
        }
        let seen = queueing(&samples, base(&samples).unwrap(), 8).unwrap();
        assert!((0.060..0.080).contains(&seen.queue) && !seen.falling, "{seen:?}");
        assert!((2.4e6..2.6e6).contains(&seen.rate), "{seen:?}");
    }

    #[test]
    fn single_late_packets_are_not_a_queue() {
        let mut samples = through(50, 5.0, 4.0);
        for sample in samples.iter_mut().skip(1).step_by(2) {
            sample.arrived += 0.030;
        }
        let base = base(&samples).unwrap();
        assert!(queueing(&samples, base, 8).unwrap().queue < 1e-9);
        assert!(unevenness(&samples, base) >= 0.029);
    }

    #[test]
    fn a_receiver_that_slept_shows_no_queue_after_it_wakes() {
        let mut samples = through(50, 1.0, 0.5);
        // It read everything at 40 ms.
        for sample in &mut samples[10..41] {
            sample.arrived = sample.arrived.max(3600.02 + 0.040);
        }
        let base = base(&samples).unwrap();
        assert!(queueing(&samples[..41], base, 8).unwrap().queue < 1e-3);
        // It may have reported the first ones before it read the others.
        let seen = queueing(&samples[..24], base, 8).unwrap();
        assert!(seen.queue > 0.015 && seen.falling, "{seen:?}");
    }

    #[test]
    fn too_few_packets_give_no_estimate() {
        assert_eq!(queueing(&[], 0.0, 8), None);
        assert_eq!(queueing(&through(7, 1.0, 1.0), 3600.0, 8), None);
        assert_eq!(arrival_rate(&[]), None);
        assert_eq!(arrival_rate(&through(1, 1.0, 1.0)), None);
    }
}
