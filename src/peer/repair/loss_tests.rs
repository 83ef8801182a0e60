//! Measures how long keyframes take over paths that lose packets, and how many extra packets they need, in
//! virtual time.

use super::{
    tests::{LossyPath, MS, Rig, share},
    *,
};

/// Packets of a keyframe of 100 KB.
const PACKETS: u16 = 85;

/// Results of the keyframes.
struct LossResult {
    /// Time from the first to the last arrival of each keyframe, sorted.
    times: Vec<Duration>,
    /// Packets sent per packet needed.
    sent: f64,
    /// The receiver's RTCP messages per keyframe.
    messages: f64,
}

impl LossResult {
    /// The maximum time for this share of the keyframes.
    fn percentile(&self, share: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * share).round() as usize]
    }
}

/// Sends keyframes every 3.5 s over a path, at 20 Mbit/s.
fn over(path: impl LossyPath, keyframes: u16) -> LossResult {
    let mut rig = Rig::new(path);
    let mut times = Vec::new();
    for number in 0..keyframes {
        let at = u32::from(number) * Duration::from_millis(3500);
        let first = number.wrapping_mul(PACKETS);
        rig.forget(first);
        rig.paced(first, PACKETS, at, Duration::from_micros(430));
        rig.until(at + Duration::from_millis(3499));
        let mut arrived = std::mem::take(&mut rig.run.arrived);
        arrived.retain(|sequence, _| sequence.wrapping_sub(first) < PACKETS);
        assert_eq!(arrived.len(), usize::from(PACKETS), "keyframe {number}");
        times
            .push(arrived.values().max().unwrap().saturating_sub(*arrived.values().min().unwrap()));
    }
    times.sort();
    let all = f64::from(keyframes) * f64::from(PACKETS);
    let messages = f64::from(rig.run.rtcp) / f64::from(keyframes);
    LossResult { times, sent: f64::from(rig.run.rtp) / all, messages }
}

/// A path that loses this share of packets in each direction, independently.
fn lossy(loss: f64, delay: Duration) -> impl LossyPath {
    let mut state = 7;
    move |_: bool, _: u32, _: Duration| (share(&mut state) >= loss).then_some(delay)
}

#[test]
fn at_ten_percent_loss_keyframes_take_at_most_two_round_trips() {
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

/// Two consecutive links, each of which loses a tenth of the packets in each direction.
#[test]
fn over_two_lossy_links_keyframes_take_few_round_trips() {
    let outcome = over(lossy(0.19, 100 * MS), 400);
    let (p50, p95) = (outcome.percentile(0.5), outcome.percentile(0.95));
    assert!(p50 <= 500 * MS && p95 <= 750 * MS, "p50 {p50:?} p95 {p95:?}");
    assert!(outcome.sent <= 1.45, "{}", outcome.sent);
}

#[test]
fn without_loss_keyframes_cost_nothing_extra() {
    for delay in [MS, 20 * MS, 60 * MS] {
        let outcome = over(lossy(0.0, delay), 20);
        assert!((outcome.sent - 1.0).abs() < 1e-9, "{delay:?}: {}", outcome.sent);
    }
}
