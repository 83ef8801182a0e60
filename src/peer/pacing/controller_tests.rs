//! Tests the controller with a simulated path, in virtual time.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

const BYTES: usize = 1250;
const MS: Duration = Duration::from_millis(1);

/// When the receiver reports arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ReportTiming {
    /// Every ten packets and every 20 ms.
    Promptly,
    /// At this interval in seconds, by its own clock.
    Every(f64),
    Never,
}

/// A bottleneck with a queue, then a path with delay, jitter and loss, and a receiver that reports arrivals and
/// answers echoes.
struct SimulatedPath {
    reports: ReportTiming,
    echoes: bool,
    rate: f64,
    queue_bytes: f64,
    delay: f64,
    jitter: f64,
    loss: f64,
    /// Offset of the receiver's clock; `drift` is how much faster it runs.
    clock: f64,
    drift: f64,
    /// Interval and duration of the receiver's stalls, seconds.
    stalls: Option<(f64, f64)>,
    /// Everything is lost until this time.
    dark_until: f64,
    free: f64,
    random: u64,
    dropped: usize,
    longest_queue: f64,
}

impl SimulatedPath {
    fn new(rate: f64) -> Self {
        Self {
            reports: ReportTiming::Promptly,
            echoes: true,
            rate,
            queue_bytes: 32_768.0,
            delay: 0.025,
            jitter: 0.0,
            loss: 0.0,
            clock: 5000.0,
            drift: 0.0,
            stalls: None,
            dark_until: 0.0,
            free: 0.0,
            random: 1,
            dropped: 0,
            longest_queue: 0.0,
        }
    }

    fn share(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The time at which the answer to an echo sent at `at` returns.
    fn echo(&mut self, at: f64) -> Option<f64> {
        let (lost, jitter) = (self.share() < self.loss || self.share() < self.loss, self.share());
        if lost || !self.echoes || at < self.dark_until {
            return None;
        }
        let arrived = at.max(self.free) + self.delay + self.jitter * jitter;
        let answered = match self.stalls {
            Some((every, long)) => arrived.max((arrived / every).floor() * every + long),
            None => arrived,
        };
        Some(answered + self.delay)
    }

    /// The time at which a packet sent at `at` arrives.
    fn send(&mut self, at: f64) -> Option<f64> {
        let (loss, jitter) = (self.share(), self.share());
        if loss < self.loss || at < self.dark_until {
            return None;
        }
        let waits = (self.free - at).max(0.0);
        if (waits * self.rate / 8.0) + BYTES as f64 > self.queue_bytes {
            self.dropped += 1;
            return None;
        }
        self.free = at.max(self.free) + BYTES as f64 * 8.0 / self.rate;
        self.longest_queue = self.longest_queue.max(self.free - at);
        let arrived = self.free + self.delay + self.jitter * jitter;
        Some(match self.stalls {
            Some((every, long)) => arrived.max((arrived / every).floor() * every + long),
            None => arrived,
        })
    }
}

/// Result of one keyframe.
#[derive(Debug)]
struct KeyframeOutcome {
    /// Time from the first packet to the last arrival, relative to the minimum possible.
    ratio: f64,
    dropped: usize,
    longest_queue: f64,
}

struct Simulation {
    controller: Controller,
    path: SimulatedPath,
    epoch: Instant,
    now: f64,
    /// RTP sequence number of the last packet.
    sequence: u16,
}

impl Simulation {
    fn new(path: SimulatedPath) -> Self {
        let epoch = Instant::now();
        let mut controller = Controller::new(RateSetting::Auto, epoch);
        controller.set_feedback(path.reports != ReportTiming::Never);
        Self { controller, path, epoch, now: 0.0, sequence: 65_000 }
    }

    fn at(&self) -> Instant {
        self.epoch + Duration::from_secs_f64(self.now)
    }

    /// Sends a keyframe of this many packets, then waits until 3.5 s after its start.
    fn keyframe(&mut self, packets: usize) -> KeyframeOutcome {
        let started = self.now;
        (self.path.dropped, self.path.longest_queue) = (0, 0.0);
        let mut arrivals: Vec<(f64, u16)> = Vec::new();
        let mut left = packets;
        self.controller.begin(self.at(), packets, false);
        // Messages in flight to us.
        let mut messages: BTreeMap<u64, Vec<(u16, Option<f64>)>> = BTreeMap::new();
        let mut unreported: Vec<(f64, u16)> = Vec::new();
        let mut reported = None;
        let mut requests: Vec<(f64, u16)> = Vec::new();
        let mut echoes: Vec<(f64, Echo)> = Vec::new();
        let mut last_arrival = 0.0_f64;
        while self.now < started + 3.5 || left > 0 {
            let now = self.at();
            while left > 0 && self.controller.poll(now, BYTES).is_none() {
                left -= 1;
                self.sequence = self.sequence.wrapping_add(1);
                let number = self.controller.sent(now, BYTES, self.sequence);
                if let Some(arrived) = self.path.send(self.now) {
                    arrivals.push((arrived, number));
                    last_arrival = last_arrival.max(arrived);
                } else {
                    // The next packet reveals the gap, which is requested together with others.
                    requests.push((self.now + 2.0 * self.path.delay + 0.020, self.sequence));
                }
                if let Some(number) = self.controller.wants_echo()
                    && let Some(back) = self.path.echo(self.now)
                {
                    let round_trip = Duration::from_secs_f64(back - self.now);
                    let least = Duration::from_secs_f64(2.0 * self.path.delay).min(round_trip);
                    echoes.push((back, Echo { number, round_trip, least }));
                }
            }
            echoes.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.number.cmp(&a.1.number)));
            while echoes.last().is_some_and(|(back, _)| *back <= self.now) {
                let Some((_, echo)) = echoes.pop() else { break };
                self.controller.echo(now, echo);
            }
            arrivals.sort_by(|a, b| b.0.total_cmp(&a.0));
            while arrivals.last().is_some_and(|(arrived, _)| *arrived <= self.now) {
                unreported.extend(arrivals.pop());
            }
            let due = match self.path.reports {
                ReportTiming::Promptly => {
                    unreported.len() >= 10
                        || unreported
                            .first()
                            .is_some_and(|(arrived, _)| self.now >= arrived + 0.020)
                }
                ReportTiming::Every(period) => {
                    !unreported.is_empty() && (self.now / period).fract() * period < 0.0005
                }
                ReportTiming::Never => false,
            };
            if due {
                let back = ((self.now + self.path.delay) * 1e6) as u64;
                messages.insert(back, self.message(&mut unreported, &mut reported));
            }
            for (_, sequence) in requests.extract_if(.., |(at, _)| *at <= self.now) {
                self.controller.missing([sequence]);
            }
            while let Some(first) = messages.first_entry()
                && *first.key() as f64 / 1e6 <= self.now
            {
                let message = first.remove();
                self.controller.feedback(now, message);
            }
            self.now += 0.0005;
        }
        let least = packets as f64 * BYTES as f64 * 8.0 / self.path.rate + self.path.delay;
        KeyframeOutcome {
            ratio: (last_arrival - started) / least,
            dropped: self.path.dropped,
            longest_queue: self.path.longest_queue,
        }
    }

    fn message(
        &self,
        unreported: &mut Vec<(f64, u16)>,
        reported: &mut Option<u16>,
    ) -> Vec<(u16, Option<f64>)> {
        let mut reports: BTreeMap<u16, Option<f64>> = BTreeMap::new();
        let newest = unreported.iter().map(|(_, number)| *number).max().unwrap_or_default();
        let from = reported.map_or(0, |reported| reported + 1);
        for number in from..=newest {
            reports.insert(number, None);
        }
        for (arrived, number) in unreported.drain(..) {
            let receiver_time = self.path.clock + arrived * (1.0 + self.path.drift);
            reports.insert(number, Some((receiver_time / 250e-6).round() * 250e-6));
        }
        *reported = Some(reported.map_or(newest, |reported| reported.max(newest)));
        reports.into_iter().collect()
    }
}

fn steady(run: &mut Simulation, keyframes: usize) -> Vec<KeyframeOutcome> {
    for _ in 0..12 {
        run.keyframe(85);
    }
    (0..keyframes).map(|_| run.keyframe(85)).collect()
}

#[test]
fn a_slow_uplink_is_measured_within_the_first_keyframe() {
    for rate in [1e6, 2e6, 5e6] {
        let mut run = Simulation::new(SimulatedPath::new(rate));
        let first = run.keyframe(85);
        assert_eq!(first.dropped, 0, "{rate}");
        assert!(first.ratio < 1.35, "{rate}: {first:?}");
    }
}

#[test]
fn keyframes_take_little_more_than_the_minimum() {
    for rate in [0.5e6, 1e6, 2e6, 5e6, 20e6, 50e6] {
        let mut run = Simulation::new(SimulatedPath::new(rate));
        for outcome in steady(&mut run, 10) {
            assert!(outcome.ratio < 1.2, "{rate}: {outcome:?}");
            assert_eq!(outcome.dropped, 0, "{rate}: {outcome:?}");
            let limit = 0.025 + 3.0 * BYTES as f64 * 8.0 / rate;
            assert!(outcome.longest_queue < limit, "{rate}: {outcome:?}");
        }
    }
}

/// libwebrtc reports every 50 to 250 ms, Pion every 100 ms, others never: echoes work as well as prompt
/// reports.
#[test]
fn late_or_missing_reports_do_not_delay_keyframes() {
    for reports in [ReportTiming::Every(0.1), ReportTiming::Every(0.25), ReportTiming::Never] {
        for rate in [1e6, 2e6, 5e6, 20e6, 50e6] {
            let mut run = Simulation::new(SimulatedPath { reports, ..SimulatedPath::new(rate) });
            let first = run.keyframe(85);
            assert_eq!(first.dropped, 0, "{reports:?} {rate}: {first:?}");
            let least = 85.0 * BYTES as f64 * 8.0 / rate + 0.025;
            // One more round trip.
            assert!(first.ratio < 1.35 + 0.050 / least, "{reports:?} {rate}: {first:?}");
            for number in 2..12 {
                let outcome = run.keyframe(85);
                assert!(outcome.ratio < 1.5, "{reports:?} {rate} {number}: {outcome:?}");
                assert_eq!(outcome.dropped, 0, "{reports:?} {rate} {number}: {outcome:?}");
                let limit = 0.025 + 6.0 * BYTES as f64 * 8.0 / rate;
                assert!(outcome.longest_queue < limit, "{reports:?} {rate} {number}: {outcome:?}");
            }
        }
    }
}

#[test]
fn without_echo_answers_reports_are_used() {
    for reports in [ReportTiming::Promptly, ReportTiming::Every(0.1)] {
        let mut run =
            Simulation::new(SimulatedPath { reports, echoes: false, ..SimulatedPath::new(5e6) });
        steady(&mut run, 0);
        let outcome = run.keyframe(85);
        assert!(outcome.ratio < 1.5 && outcome.dropped == 0, "{reports:?}: {outcome:?}");
    }
}

#[test]
fn a_packet_outside_any_access_unit_gets_no_echo() {
    let now = Instant::now();
    let mut controller = Controller::new(RateSetting::Auto, now);
    controller.sent(now, BYTES, 1);
    assert_eq!(controller.wants_echo(), None);
}

#[test]
fn a_peer_that_reports_promptly_gets_no_echoes() {
    let mut run = Simulation::new(SimulatedPath::new(5e6));
    run.keyframe(85);
    run.controller.begin(run.at(), 85, false);
    assert!(run.controller.prompt);
    run.controller.sent(run.at(), BYTES, 1);
    assert_eq!(run.controller.wants_echo(), None);
}

/// A message sent at fixed intervals is occasionally in time.
#[test]
fn a_peer_that_reports_at_fixed_intervals_always_gets_echoes() {
    for rate in [1e6, 5e6, 50e6] {
        for period in [0.05, 0.1, 0.25] {
            let mut run = Simulation::new(SimulatedPath {
                reports: ReportTiming::Every(period),
                ..SimulatedPath::new(rate)
            });
            for number in 0..20 {
                run.now += 0.0137;
                run.keyframe(85);
                assert_eq!(
                    run.controller.sent.source(),
                    ArrivalSource::Echoes,
                    "{rate} {period} {number}"
                );
            }
        }
    }
}

#[test]
fn the_rate_follows_a_changing_path() {
    let mut run = Simulation::new(SimulatedPath::new(20e6));
    steady(&mut run, 1);
    run.path.rate = 2e6;
    run.keyframe(85);
    assert!(run.controller.rate() < 2_000_000, "{}", run.controller.rate());
    assert_eq!(run.keyframe(85).dropped, 0);
    run.path.rate = 50e6;
    for _ in 0..10 {
        run.keyframe(85);
    }
    assert!(run.controller.rate() > 35_000_000, "{}", run.controller.rate());
}

#[test]
fn an_outage_at_the_start_does_not_affect_the_estimate() {
    let undisturbed = Simulation::new(SimulatedPath::new(20e6)).keyframe(85);
    for dark_until in [0.05, 0.15, 0.25, 1.0] {
        let mut run = Simulation::new(SimulatedPath { dark_until, ..SimulatedPath::new(20e6) });
        run.keyframe(85);
        assert!(run.controller.rate() >= INITIAL_RATE, "{dark_until}: {}", run.controller.rate());
        // The next keyframe is as good as a first one can be.
        let outcome = run.keyframe(85);
        assert!(outcome.ratio < 1.05 * undisturbed.ratio, "{dark_until}: {outcome:?}");
    }
}

#[test]
fn loss_alone_does_not_reduce_the_rate() {
    for loss in [0.02, 0.1, 0.3] {
        let mut run = Simulation::new(SimulatedPath { loss, ..SimulatedPath::new(5e6) });
        steady(&mut run, 1);
        for _ in 0..10 {
            run.keyframe(85);
            let rate = run.controller.rate();
            assert!((2_500_000..5_750_000).contains(&rate), "{loss}: {rate}");
        }
    }
}

/// A policer drops traffic above its rate and has hardly any queue.
#[test]
fn the_rate_of_a_policer_is_obeyed() {
    let queue_bytes = 4.0 * BYTES as f64;
    let mut run = Simulation::new(SimulatedPath { queue_bytes, ..SimulatedPath::new(3e6) });
    steady(&mut run, 0);
    let dropped: usize = (0..10).map(|_| run.keyframe(85).dropped).sum();
    assert!(dropped < 10 * 85 / 5, "{dropped}");
}

#[test]
fn occasional_receiver_stalls_do_not_reduce_the_rate() {
    for reports in [ReportTiming::Promptly, ReportTiming::Every(0.1), ReportTiming::Never] {
        for rate in [2e6, 5e6, 20e6, 50e6] {
            let stalls = Some((0.173, 0.030));
            let mut run =
                Simulation::new(SimulatedPath { reports, stalls, ..SimulatedPath::new(rate) });
            steady(&mut run, 0);
            for _ in 0..20 {
                run.keyframe(85);
                let share = run.controller.rate() as f64 / rate;
                // A keyframe does not overrun a fast path.
                let max = if rate > 2e7 { 2.0 } else { 1.3 };
                assert!((0.6..max).contains(&share), "{reports:?}: {share} of {rate}");
            }
        }
    }
}

/// Regression: a keyframe took seconds on a machine that was busy when the first one was sent.
#[test]
fn a_stall_in_the_first_packets_does_not_affect_the_estimate() {
    for reports in [ReportTiming::Promptly, ReportTiming::Never] {
        for step in 1..9 {
            let mut run = Simulation::new(SimulatedPath { reports, ..SimulatedPath::new(50e6) });
            run.now = 10.0;
            let begin = run.now + run.path.delay + f64::from(step) * 0.0002;
            run.path.stalls = Some((begin, 0.4));
            run.keyframe(85);
            let rate = run.controller.rate();
            assert!(rate as f64 > 0.6 * INITIAL_RATE as f64, "{reports:?} {step}: {rate}");
        }
    }
}

/// Packets that arrive as fast as they were sent prove at least that capacity: no more are needed.
#[test]
fn first_packets_of_a_slow_sender_are_enough() {
    let epoch = Instant::now();
    let mut controller = Controller::new(RateSetting::Auto, epoch);
    controller.begin(epoch, 85, false);
    let (mut echoes, round_trip) = (Vec::new(), 20 * MS);
    for number in 0..10_u16 {
        let now = epoch + u32::from(number) * 2 * MS;
        assert_eq!(controller.poll(now, BYTES), None);
        controller.sent(now, BYTES, number);
        echoes.extend(controller.wants_echo().map(|number| (now + round_trip, number)));
    }
    for (now, number) in echoes {
        controller.echo(now, Echo { number, round_trip, least: round_trip });
    }
    assert!(controller.estimate().is_some_and(|rate| rate > 4_000_000), "{controller:?}");
}

/// On a busy machine, nothing may be read for 70 ms anywhere in a keyframe. The path is fast.
#[test]
fn a_single_long_stall_does_not_reduce_the_rate() {
    for reports in [ReportTiming::Promptly, ReportTiming::Never] {
        let mut run = Simulation::new(SimulatedPath { reports, ..SimulatedPath::new(100e6) });
        steady(&mut run, 0);
        for step in 0..20 {
            let before = run.controller.rate();
            let begin = run.now + run.path.delay + f64::from(step) * 0.0007;
            run.path.stalls = Some((begin, 0.070));
            run.keyframe(85);
            run.path.stalls = None;
            let share = run.controller.rate() as f64 / before as f64;
            assert!(share > 0.6, "{reports:?} {step}: {share}");
            run.keyframe(85);
        }
    }
}

#[test]
fn missing_feedback_is_awaited_only_once() {
    for feedback in [true, false] {
        let took = without_answers(feedback);
        assert!(took[0] < 400 * MS, "{took:?}");
        assert!(took[3] < 90 * MS, "{took:?}");
    }
}

/// The time each of four keyframes takes when nothing is answered.
fn without_answers(feedback: bool) -> Vec<Duration> {
    let mut now = Instant::now();
    let mut controller = Controller::new(RateSetting::Auto, now);
    controller.set_feedback(feedback);
    let mut took = Vec::new();
    for _ in 0..4 {
        let unit = now;
        controller.begin(now, 85, false);
        for _ in 0..85 {
            while let Some(until) = controller.poll(now, BYTES) {
                now = until.max(now + MS);
            }
            controller.sent(now, BYTES, 1);
        }
        took.push(now - unit);
        now += 3000 * MS;
    }
    assert_eq!(controller.estimate(), None);
    took
}

#[test]
fn off_is_limited_only_through_relays() {
    let now = Instant::now();
    let mut controller = Controller::new(RateSetting::Off, now);
    controller.begin(now, 500, false);
    assert!((0..500).all(|_| controller.poll(now, BYTES).is_none()));
    controller.begin(now, 500, true);
    let burst = (0..500).take_while(|_| controller.poll(now, BYTES).is_none()).count();
    assert!((1..=26).contains(&burst), "{burst}");
}

proptest! {
    // The estimate is right for nearly all paths, not all: use the same cases in each run.
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_rate_of_any_path_is_found_and_not_exceeded(
        rate in 3e5..1e8_f64,
        delay in 0.0..0.15_f64,
        jitter in 0.0..0.002_f64,
        loss in 0.0..0.05_f64,
        drift in -1e-4..1e-4_f64,
        random in 1..u64::MAX,
    ) {
        let mut run = Simulation::new(SimulatedPath { delay, jitter, loss, drift, random, ..SimulatedPath::new(rate) });
        steady(&mut run, 0);
        for _ in 0..5 {
            let outcome = run.keyframe(85);
            let share = run.controller.rate() as f64 / rate;
            prop_assert!(share > 0.7, "{share} of {rate}: {outcome:?}");
            // Too fast means that a queue builds up before the keyframe ends.
            let limit = 0.025 + 5.0 * BYTES as f64 * 8.0 / rate;
            prop_assert!(outcome.longest_queue < limit, "{share} of {rate}: {outcome:?}");
            prop_assert!(share < 1.2 || rate > 2e7, "{share} of {rate}: {outcome:?}");
        }
    }
}
