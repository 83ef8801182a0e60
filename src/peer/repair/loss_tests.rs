//! How long keyframes take over paths that lose packets, and how much more is sent for it, in virtual time.

use super::{
    tests::{MS, Rig, Way, share},
    *,
};

/// Packets of a keyframe of 100 KB.
const PACKETS: u16 = 85;

/// What became of the keyframes.
struct Outcome {
    /// From the first packet of a keyframe that came to the last, sorted.
    times: Vec<Duration>,
    /// Packets sent for each that was needed.
    sent: f64,
    /// RTCP messages of the receiver for each keyframe.
    messages: f64,
}

impl Outcome {
    /// The time that this share of the keyframes takes at most.
    fn percentile(&self, share: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * share).round() as usize]
    }
}

/// Keyframes each 3.5 s over a path, one after the other, at 20 Mbit/s.
fn over(way: impl Way, keyframes: u16) -> Outcome {
    let mut rig = Rig::new(way);
    let mut times = Vec::new();
    for number in 0..keyframes {
        let at = u32::from(number) * Duration::from_millis(3500);
        let first = number.wrapping_mul(PACKETS);
        rig.forget(first);
        rig.paced(first, PACKETS, at, Duration::from_micros(430));
        rig.until(at + Duration::from_millis(3499));
        let mut came = std::mem::take(&mut rig.run.came);
        came.retain(|sequence, _| sequence.wrapping_sub(first) < PACKETS);
        assert_eq!(came.len(), usize::from(PACKETS), "keyframe {number}");
        times.push(came.values().max().unwrap().saturating_sub(*came.values().min().unwrap()));
    }
    times.sort();
    let all = f64::from(keyframes) * f64::from(PACKETS);
    let messages = f64::from(rig.run.rtcp) / f64::from(keyframes);
    Outcome { times, sent: f64::from(rig.run.rtp) / all, messages }
}

/// A path that loses this share of packets each way, each on its own.
fn lossy(loss: f64, delay: Duration) -> impl Way {
    let mut state = 7;
    move |_: bool, _: u32, _: Duration| (share(&mut state) >= loss).then_some(delay)
}

#[test]
fn at_ten_percent_loss_keyframes_take_two_round_trips_at_most() {
    let outcome = over(lossy(0.1, 50 * MS), 400);
    let (p50, p95) = (outcome.percentile(0.5), outcome.percentile(0.95));
    assert!(p50 <= 150 * MS && p95 <= 240 * MS, "p50 {p50:?} p95 {p95:?}");
    assert!(
        outcome.sent <= 1.25 && outcome.messages <= 20.0,
        "{} {}",
        outcome.sent,
        outcome.messages
    );
}

#[test]
fn at_five_percent_loss_keyframes_take_one_round_trip() {
    let outcome = over(lossy(0.05, 50 * MS), 400);
    assert!(outcome.percentile(0.95) <= 160 * MS, "{:?}", outcome.percentile(0.95));
    assert!(outcome.sent <= 1.15, "{}", outcome.sent);
}

/// Two links that lose a tenth each way, one after the other.
#[test]
fn over_two_lossy_links_keyframes_take_few_round_trips() {
    let outcome = over(lossy(0.19, 100 * MS), 400);
    let (p50, p95) = (outcome.percentile(0.5), outcome.percentile(0.95));
    assert!(p50 <= 500 * MS && p95 <= 750 * MS, "p50 {p50:?} p95 {p95:?}");
    assert!(outcome.sent <= 1.45, "{}", outcome.sent);
}

#[test]
fn where_nothing_is_lost_keyframes_cost_nothing_more() {
    for delay in [MS, 20 * MS, 60 * MS] {
        let outcome = over(lossy(0.0, delay), 20);
        assert!((outcome.sent - 1.0).abs() < 1e-9, "{delay:?}: {}", outcome.sent);
    }
}
