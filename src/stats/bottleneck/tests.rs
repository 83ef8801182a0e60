//! Keyframes of a small model: a sender that paces, a path with one queue, and pings.

use super::{super::delivery::Arrival, *};

const PACKET: usize = 1250;
const KEYFRAME: usize = 84;
const DELAY: Duration = Duration::from_millis(20);
const CADENCE: Duration = Duration::from_millis(3500);

/// A sender and a path.
#[derive(Debug, Clone, Copy)]
struct Model {
    /// Rate of the sender's pacer, bits/s.
    pace: u64,
    /// Packets due within this time leave together; zero: each by itself.
    burst: Duration,
    /// Rate of the path, bits/s; before the first packet of the keyframe `at`, and from then on.
    path: [u64; 2],
    at: usize,
    /// One of this many packets is lost, and its first retransmission as well; 0: none.
    lost: usize,
    /// Round trips vary by this much.
    jitter: Duration,
    keyframes: usize,
    pings_every: Option<Duration>,
}

/// Chromium's defaults over a path.
const DEFAULTS: Model = Model {
    pace: 980_000,
    burst: Duration::from_millis(40),
    path: [20_000_000; 2],
    at: 0,
    lost: 0,
    jitter: Duration::ZERO,
    keyframes: 6,
    pings_every: Some(Duration::from_secs(1)),
};

/// A sender that does not pace.
const UNPACED: Model = Model { pace: 1_000_000_000, burst: Duration::ZERO, ..DEFAULTS };

fn taking(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64)
}

#[derive(Debug, Clone, Copy)]
enum What {
    Packet { keyframe: usize, retransmitted: bool },
    Pong { sent: Duration },
}

impl Model {
    /// The packets that enter the path, with their times.
    fn entering(&self) -> Vec<(Duration, usize, What)> {
        let mut entering = Vec::new();
        for keyframe in 0..self.keyframes {
            let begin = Duration::from_millis(600) + CADENCE * keyframe as u32;
            for packet in 0..KEYFRAME {
                let mut due = taking(PACKET, self.pace) * packet as u32;
                if !self.burst.is_zero() {
                    let nth = due.as_nanos() / self.burst.as_nanos();
                    due = self.burst * nth as u32;
                }
                let lost = self.lost > 0 && packet % self.lost == self.lost / 2;
                // Requested again after a round trip, and once more after another one and a half.
                let late = if lost { DELAY * 5 } else { Duration::ZERO };
                let what = What::Packet { keyframe, retransmitted: lost };
                entering.push((begin + due + late, PACKET, what));
            }
        }
        if let Some(every) = self.pings_every {
            for nth in 0..(CADENCE * self.keyframes as u32).as_millis() / every.as_millis() {
                let jitter = self.jitter.mul_f64((nth as f64 * 0.618).fract());
                let sent = every * nth as u32;
                entering.push((sent + DELAY + jitter, 100, What::Pong { sent }));
            }
        }
        entering.sort_by_key(|(at, ..)| *at);
        entering
    }

    fn run(&self) -> (Vec<ArrivedKeyframe>, Vec<RoundTrip>) {
        let zero = Instant::now();
        let mut packets = vec![Vec::new(); self.keyframes];
        let mut trips = Vec::new();
        let (mut free, mut changed) = (Duration::ZERO, false);
        for (enters, bytes, what) in self.entering() {
            changed |= matches!(what, What::Packet { keyframe, .. } if keyframe >= self.at);
            free = free.max(enters) + taking(bytes, self.path[usize::from(changed)]);
            let arrives = free + DELAY;
            match what {
                What::Packet { keyframe, retransmitted } => {
                    packets[keyframe].push((arrives, retransmitted));
                }
                What::Pong { sent } => {
                    trips.push(RoundTrip { sent: zero + sent, took: arrives.saturating_sub(sent) });
                }
            }
        }
        let keyframes = packets.into_iter().map(|packets| {
            let first = packets[0].0;
            let arrival = |(at, retransmitted): &(Duration, bool)| Arrival {
                at: at.saturating_sub(first),
                bytes: PACKET,
                retransmitted: *retransmitted,
            };
            let delivery = Delivery::of(packets.iter().map(arrival).collect());
            ArrivedKeyframe { first: zero + first, delivery, bytes: 100_000, pixels: None }
        });
        (keyframes.collect(), trips)
    }

    fn assessment(&self) -> Vec<Assessment> {
        let (keyframes, trips) = self.run();
        assess(&keyframes, &trips, PingedBy::Receiver)
    }

    fn overall(&self) -> Overall {
        let (keyframes, trips) = self.run();
        let assessment = assess(&keyframes, &trips, PingedBy::Receiver);
        summarize(keyframes.iter().zip(&assessment)).unwrap()
    }
}

fn mbit(path: Option<PathRate>) -> (f64, bool) {
    let path = path.unwrap();
    ((path.bits_per_second as f64 / 1e5).round() / 10.0, path.at_least)
}

/// The pauses of the sender indicate it, and the bursts give a lower bound of the path rate; pings make it certain.
#[test]
fn a_paced_sender_on_a_fast_path() {
    for (path, claimed) in [(5_000_000, 5.0), (20_000_000, 20.0), (1_000_000_000, 100.0)] {
        for pings_every in [None, Some(Duration::from_secs(1))] {
            let overall = Model { path: [path; 2], pings_every, ..DEFAULTS }.overall();
            assert_eq!((overall.limit, overall.count), (Limit::Sender, 6), "{path} {overall:?}");
            assert_eq!(overall.sure, pings_every.is_some(), "{path} {overall:?}");
            assert!(overall.libwebrtc, "{overall:?}");
            assert_eq!(mbit(overall.path), (claimed, true));
            let rate = overall.rate.unwrap() as f64 / 980e3;
            assert!((0.9..1.1).contains(&rate), "{overall:?}");
        }
    }
}

/// Evenly spaced packets alone are ambiguous; a ping among them shows that nothing queues.
#[test]
fn an_evenly_paced_sender_shows_by_pings_alone() {
    let even = Model { burst: Duration::ZERO, ..DEFAULTS };
    let overall = even.overall();
    assert_eq!((overall.limit, overall.sure, overall.libwebrtc), (Limit::Sender, true, false));
    assert_eq!(mbit(overall.path), (1.0, true), "no keyframe shows a higher rate");
    let overall = Model { pings_every: None, ..even }.overall();
    assert_eq!((overall.limit, overall.count, overall.sure), (Limit::Unknown, 6, false));
}

#[test]
fn a_queue_shows_that_the_path_limits() {
    for rate in [1_000_000, 2_000_000, 5_000_000] {
        let every = Duration::from_millis(100);
        for jitter in [0, 3].map(Duration::from_millis) {
            let model = Model {
                path: [rate; 2],
                pings_every: Some(every),
                jitter,
                keyframes: 4,
                ..UNPACED
            };
            let overall = model.overall();
            assert_eq!((overall.limit, overall.sure), (Limit::Path, true), "{overall:?}");
            assert_eq!(mbit(overall.path), (rate as f64 / 1e6, false));
            let least = taking(PACKET * KEYFRAME, rate).as_secs_f64();
            assert!((overall.least.unwrap().as_secs_f64() / least - 1.0).abs() < 0.02);
        }
    }
    // The same packets without pings: spaced as evenly as those of a sender that paces.
    let overall = Model { path: [2_000_000; 2], pings_every: None, ..UNPACED }.overall();
    assert_eq!(overall.limit, Limit::Unknown);
    assert_eq!(mbit(overall.path), (2.0, true));
}

/// A sender that paces a little above the path's rate.
#[test]
fn a_slowly_growing_queue_is_detected() {
    let every = Duration::from_millis(50);
    let model = Model { pace: 1_300_000, burst: Duration::ZERO, path: [1_000_000; 2], ..DEFAULTS };
    let overall = Model { pings_every: Some(every), ..model }.overall();
    assert_eq!((overall.limit, overall.sure), (Limit::Path, true), "{overall:?}");
}

/// Bursts of 31 KB at 20 Mbit/s queue for 12 ms each, and the path is idle between them.
#[test]
fn the_queue_of_a_burst_is_not_the_paths_limit() {
    let every = Some(Duration::from_millis(7));
    let model = Model { pace: 6_200_000, path: [20_000_000; 2], pings_every: every, ..DEFAULTS };
    let overall = model.overall();
    assert_eq!(overall.limit, Limit::Sender, "{overall:?}");
    assert_eq!(mbit(overall.path), (20.0, true));
}

/// Paced at 0.74 of 1 Mbit/s: a higher estimate would gain almost nothing.
#[test]
fn near_the_paths_rate_the_path_limits() {
    let model = Model { pace: 740_000, path: [1_000_000; 2], ..DEFAULTS };
    let overall = model.overall();
    assert_eq!((overall.limit, overall.sure), (Limit::Path, false), "{overall:?}");
}

#[test]
fn retransmissions_that_take_most_of_the_time() {
    let overall = Model { lost: 20, ..UNPACED }.overall();
    assert_eq!((overall.limit, overall.sure), (Limit::Loss, true), "{overall:?}");
    assert!(overall.repair > DELAY * 3, "{overall:?}");
    // A few that arrive among the others cost nothing.
    let overall = Model { lost: 40, ..DEFAULTS }.overall();
    assert_eq!(overall.limit, Limit::Sender, "{overall:?}");
}

#[test]
fn fast_keyframes_have_no_bottleneck() {
    let overall = Model { path: [50_000_000; 2], ..UNPACED }.overall();
    assert_eq!((overall.limit, overall.sure), (Limit::None, true), "{overall:?}");
    assert_eq!(mbit(overall.path), (50.0, true));
}

/// From 50 to 1 Mbit/s during the call: nothing is concluded from earlier observations.
#[test]
fn a_changed_path_is_not_assessed_by_old_observations() {
    let model = Model { path: [50_000_000, 1_000_000], at: 2, ..UNPACED };
    let every = Some(Duration::from_millis(100));
    let assessment = Model { pings_every: every, ..model }.assessment();
    assert_eq!(mbit(assessment[1].path), (50.0, true));
    assert_eq!((assessment[2].limit, mbit(assessment[2].path)), (Limit::Path, (1.0, false)));
    let assessment = Model { pings_every: None, ..model }.assessment();
    assert_eq!((assessment[2].limit, mbit(assessment[2].path)), (Limit::Unknown, (1.0, true)));
}

/// One ping in the third of six keyframes.
#[test]
fn a_ping_result_applies_to_later_keyframes() {
    let every = Some(Duration::from_millis(100));
    let (keyframes, mut trips) =
        Model { path: [2_000_000; 2], pings_every: every, ..UNPACED }.run();
    let within = |trip: &RoundTrip, nth: usize| {
        (keyframes[nth].first..keyframes[nth].first + keyframes[nth].delivery.spread)
            .contains(&trip.sent)
    };
    trips.retain(|trip| {
        trip.took < Duration::from_millis(50) && !(0..6).any(|nth| within(trip, nth))
            || within(trip, 2)
    });
    let limits: Vec<_> = assess(&keyframes, &trips, PingedBy::Receiver)
        .iter()
        .map(|assessment| (assessment.limit, assessment.sure))
        .collect();
    let (unknown, sure, likely) =
        ((Limit::Unknown, false), (Limit::Path, true), (Limit::Path, false));
    assert_eq!(limits, [unknown, unknown, sure, likely, likely, likely]);
}

/// Answers may overtake each other.
#[test]
fn the_order_of_round_trips_does_not_matter() {
    let every = Some(Duration::from_millis(100));
    let (keyframes, mut trips) =
        Model { path: [2_000_000; 2], pings_every: every, ..UNPACED }.run();
    let assessment = assess(&keyframes, &trips, PingedBy::Receiver);
    trips.reverse();
    assert_eq!(assess(&keyframes, &trips, PingedBy::Receiver), assessment);
}

/// Pings of the sender: these travel with the keyframe, not their answers.
#[test]
fn pings_of_the_sender_are_understood() {
    let every = Some(Duration::from_millis(100));
    let (keyframes, mut trips) =
        Model { path: [2_000_000; 2], pings_every: every, ..UNPACED }.run();
    // Sent at the times of the model's pongs.
    for trip in &mut trips {
        trip.sent += DELAY;
    }
    let assessment = assess(&keyframes, &trips, PingedBy::Sender);
    assert!(assessment.iter().all(|one| one.limit == Limit::Path && one.sure), "{assessment:?}");
}

#[test]
fn no_keyframes_give_no_conclusion() {
    assert_eq!(assess(&[], &[], PingedBy::Receiver), []);
    assert_eq!(summarize([]), None);
    let one = ArrivedKeyframe {
        first: Instant::now(),
        delivery: Delivery::default(),
        bytes: 10,
        pixels: None,
    };
    let assessment = assess(&[one], &[], PingedBy::Receiver);
    assert_eq!((assessment[0].limit, assessment[0].path), (Limit::None, None));
    assert_eq!(assessment[0].least(&one.delivery), None);
}
