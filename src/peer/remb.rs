//! The receiver's own estimate of what the path carries, for senders that honor REMB
//! (draft-alvestrand-rmcat-remb-03, `a=rtcp-fb:… goog-remb`) and stamp their packets with the time at which
//! they left (`abs-send-time`).
//!
//! libwebrtc's estimate converges over a continuous stream. With one keyframe every few seconds it stays a little above
//! a slow path's rate, so that each keyframe fills the queue in front of the path, and pings wait in it. The delay of
//! packets against their send time shows such a queue while it grows; a REMB a little below the rate at which they
//! arrive keeps the next ones, and the rest of this keyframe, from waiting. Nothing is sent as long as no queue grows.

use std::time::{Duration, Instant};

use rtc::{
    interceptor::StreamInfo,
    rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate,
    rtp,
};

/// URI of the header extension: 24 bits of seconds, 18 of them behind the point.
pub(super) const ABS_SEND_TIME_URI: &str =
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

/// Its unit: 2^-18 s.
const UNITS_PER_SECOND: f64 = (1 << 18) as f64;

/// Packets that arrive after a pause like this start a new burst, with an empty queue before them.
const PAUSE: Duration = Duration::from_millis(250);

/// Time in which the least delay is that of a standing queue. libwebrtc's pacer sends up to 40 ms of packets in one go
/// (`PacingController::kDefaultBurstInterval`), which wait for each other without one.
const STANDING: Duration = Duration::from_millis(60);

/// A standing queue of this delay is reported.
const QUEUE: Duration = Duration::from_millis(25);

/// A burst whose standing queue stays below this found none: the path may carry more.
const NO_QUEUE: Duration = Duration::from_millis(20);

/// A packet that waits less found the queue empty.
const EMPTY: f64 = 0.003;

/// Packets that have to arrive while the queue stands before their rate is that of the path.
const FEWEST: usize = 8;

/// The median gap's rate and that of all packets differ by at most this factor where a path's rate spaces them. After a
/// stall, of a radio or of the receiver, many arrive together.
const EVEN: f64 = 1.5;

/// Share of the path's rate that the sender may use. libwebrtc paces at 1.1 times the estimate.
const SHARE: f64 = 0.9;

/// What the estimate is raised by after a burst without a queue.
const RAISE: f64 = 1.25;

/// Bursts without a queue before it is raised; twice as many after each raise that filled the queue, up to [`LONGEST_HOLD`].
const HOLD: u32 = 4;
const LONGEST_HOLD: u32 = 32;

/// From here on the estimate limits nothing: above the maximum that our answer names.
const UNLIMITED: f64 = 15e6;

/// Sent to withdraw an estimate, bits/s.
const WITHDRAWN: f64 = 1e9;

/// Withdrawals, for RTCP gets lost.
const WITHDRAWALS: u32 = 3;

/// Time between two reports within a burst.
const INTERVAL: Duration = Duration::from_millis(50);

/// A packet as the estimate needs it.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    at: Instant,
    bytes: usize,
    /// Arrival less send time, s, from an arbitrary origin.
    delay: f64,
}

/// What is known of a burst of packets.
#[derive(Debug, Default)]
struct Burst {
    /// Those that arrived since the queue was empty.
    packets: Vec<Arrived>,
    count: usize,
    /// Least delay so far, s.
    least: f64,
    /// Longest delay of a standing queue, s.
    longest: f64,
}

/// The estimate, without a socket and with time passed in.
#[derive(Debug, Default)]
pub(super) struct PathLimit {
    /// First arrival, the origin of delays.
    origin: Option<Instant>,
    /// Send time of the newest packet, units without a wrap.
    sent: Option<i64>,
    burst: Burst,
    /// Bits/s of RTP packets; none while no queue was seen.
    limit: Option<f64>,
    /// Bursts without a queue since it was lowered or raised.
    calm: u32,
    /// How many are waited for.
    hold: u32,
    /// Whether the newest change was a raise.
    raised: bool,
    withdrawals: u32,
    reported: Option<Instant>,
}

impl PathLimit {
    /// A packet arrived that left at `send_time`, 24 bits of 2^-18 s. Gives the estimate to send, bits/s.
    pub(super) fn arrived(&mut self, send_time: u32, bytes: usize, now: Instant) -> Option<f64> {
        let origin = *self.origin.get_or_insert(now);
        let sent = unwrap_send_time(self.sent, send_time);
        self.sent = Some(self.sent.map_or(sent, |newest| newest.max(sent)));
        let delay = now.duration_since(origin).as_secs_f64() - sent as f64 / UNITS_PER_SECOND;
        let packet = Arrived { at: now, bytes, delay };
        let starts = self.burst.packets.last().is_none_or(|last| now - last.at > PAUSE);
        let ended = if starts { self.end_burst() } else { None };
        if starts {
            self.burst = Burst { least: delay, ..Burst::default() };
        }
        self.burst.push(packet);
        self.lower(now).or(ended)
    }

    /// Lowers the estimate when packets wait in a queue that this burst filled.
    fn lower(&mut self, now: Instant) -> Option<f64> {
        let rate = self.burst.path_rate()?;
        let limit = rate * SHARE;
        let recently = self.reported.is_some_and(|at| now - at < INTERVAL);
        if recently || limit >= UNLIMITED || self.limit.is_some_and(|known| limit > known * 0.97) {
            return None;
        }
        self.hold = if self.raised {
            (self.hold * 2).clamp(HOLD, LONGEST_HOLD)
        } else {
            self.hold.max(HOLD)
        };
        (self.raised, self.calm) = (false, 0);
        (self.limit, self.reported, self.withdrawals) = (Some(limit), Some(now), 0);
        Some(limit)
    }

    /// The burst before is over: repeats the estimate, or raises it when no queue was seen for a while.
    fn end_burst(&mut self) -> Option<f64> {
        if self.burst.count < FEWEST {
            return None;
        }
        if self.withdrawals > 0 {
            self.withdrawals -= 1;
            return Some(WITHDRAWN);
        }
        let limit = self.limit?;
        if self.burst.longest > NO_QUEUE.as_secs_f64() {
            self.calm = 0;
            return Some(limit);
        }
        self.calm += 1;
        if self.calm < self.hold {
            return Some(limit);
        }
        (self.calm, self.raised) = (0, true);
        let raised = limit * RAISE;
        if raised < UNLIMITED {
            self.limit = Some(raised);
            return Some(raised);
        }
        (self.limit, self.withdrawals) = (None, WITHDRAWALS);
        Some(WITHDRAWN)
    }
}

impl Burst {
    fn push(&mut self, packet: Arrived) {
        self.least = self.least.min(packet.delay);
        if packet.delay - self.least < EMPTY {
            self.packets.clear();
        }
        self.packets.push(packet);
        self.count += 1;
        self.longest = self.longest.max(self.standing());
    }

    /// Delay of the standing queue, s.
    fn standing(&self) -> f64 {
        let [first, .., last] = self.packets.as_slice() else { return 0.0 };
        if last.at - first.at < STANDING {
            return 0.0;
        }
        let newest = self.packets.iter().rev().take_while(|packet| last.at - packet.at < STANDING);
        newest.map(|packet| packet.delay).fold(f64::INFINITY, f64::min) - self.least
    }

    /// The rate that a standing queue is emptied at, bits/s.
    fn path_rate(&self) -> Option<f64> {
        let [first, rest @ .., last] = self.packets.as_slice() else { return None };
        if rest.len() + 1 < FEWEST || self.standing() < QUEUE.as_secs_f64() {
            return None;
        }
        let rest = &self.packets[1..];
        let bytes: usize = rest.iter().map(|packet| packet.bytes).sum();
        let rate = bytes as f64 * 8.0 / (last.at - first.at).as_secs_f64();
        let mut gaps: Vec<Duration> =
            self.packets.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        gaps.sort_unstable();
        let usual = bytes as f64 * 8.0 / rest.len() as f64 / gaps[gaps.len() / 2].as_secs_f64();
        // Where something else delayed them, most gaps are still those of the sender's pace: its estimate stays.
        (usual < rate * EVEN && rate.is_finite()).then_some(rate.max(usual))
    }
}

/// The send time nearest to the newest one, units: 24 bits wrap every 64 s.
fn unwrap_send_time(newest: Option<i64>, send_time: u32) -> i64 {
    let send_time = i64::from(send_time & 0xff_ffff);
    let Some(newest) = newest else { return send_time };
    let ahead = (send_time - newest).rem_euclid(1 << 24);
    newest + if ahead < 1 << 23 { ahead } else { ahead - (1 << 24) }
}

/// What a stream's description says about it: the id of the send time's header extension, when the peer honors REMB.
pub(super) fn send_time_id(info: &StreamInfo) -> Option<u8> {
    let honored = info.rtcp_feedback.iter().any(|one| one.typ == "goog-remb");
    let extension = info.rtp_header_extensions.iter().find(|one| one.uri == ABS_SEND_TIME_URI)?;
    u8::try_from(extension.id).ok().filter(|id| honored && *id > 0)
}

/// The send time in a packet's header extension.
pub(super) fn send_time(header: &rtp::Header, id: u8) -> Option<u32> {
    let extension = header.get_extension(id)?;
    let [high, middle, low] = *extension.first_chunk::<3>()?;
    Some(u32::from_be_bytes([0, high, middle, low]))
}

/// The message with an estimate for a sender's stream.
pub(super) fn message(
    sender_ssrc: u32,
    media_ssrc: u32,
    bitrate: f64,
) -> ReceiverEstimatedMaximumBitrate {
    ReceiverEstimatedMaximumBitrate {
        sender_ssrc,
        bitrate: bitrate as f32,
        ssrcs: vec![media_ssrc],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1160;

    /// A path in front of which packets queue.
    struct Path {
        rate: f64,
        start: Instant,
        free_at: f64,
        limit: PathLimit,
        estimate: f64,
        reports: usize,
        longest: f64,
    }

    impl Path {
        fn new(rate: f64, estimate: f64) -> Self {
            let start = Instant::now();
            let (limit, free_at) = (PathLimit::default(), 0.0);
            Self { rate, start, free_at, limit, estimate, reports: 0, longest: 0.0 }
        }

        /// A keyframe of 100 KB at the estimate's pace, 40 ms of packets at a time as libwebrtc sends them.
        fn keyframe(&mut self, at: f64, jitter: impl Fn(usize) -> f64) {
            let (mut sent, mut reported): (f64, Vec<(f64, f64)>) = (at, Vec::new());
            self.longest = 0.0;
            for nth in 0..87 {
                for (_, estimate) in reported.extract_if(.., |(at, _)| *at < sent) {
                    self.estimate = self.estimate.min(estimate).max(0.0);
                    if estimate > self.estimate {
                        self.estimate = estimate;
                    }
                }
                let leaves = at + ((sent - at) / 0.04).floor() * 0.04;
                self.free_at = self.free_at.max(leaves) + PACKET as f64 * 8.0 / self.rate;
                let arrives = self.free_at + 0.02 + jitter(nth);
                self.longest = self.longest.max(self.free_at - leaves);
                let stamp = (leaves * UNITS_PER_SECOND) as u32 & 0xff_ffff;
                let now = self.start + Duration::from_secs_f64(arrives + 1.0);
                if let Some(estimate) = self.limit.arrived(stamp, PACKET, now) {
                    self.reports += 1;
                    reported.push((arrives + 0.02, estimate));
                }
                sent += PACKET as f64 * 8.0 / (self.estimate * 1.1);
            }
            for (_, estimate) in reported {
                self.estimate = estimate.min(13e6);
            }
        }
    }

    #[test]
    fn a_queue_in_front_of_a_slow_path_stays_short() {
        let mut path = Path::new(1e6, 1.5e6);
        path.keyframe(60.0, |_| 0.0);
        assert!(path.longest < 0.25, "{}", path.longest);
        for nth in 1..40 {
            path.keyframe(60.0 + f64::from(nth) * 3.5, |_| 0.0);
            assert!(path.longest < 0.12, "keyframe {nth}: {}", path.longest);
            assert!((0.7e6..1.2e6).contains(&path.estimate), "keyframe {nth}: {}", path.estimate);
        }
    }

    #[test]
    fn a_path_without_a_queue_gets_no_report() {
        let mut path = Path::new(20e6, 13e6);
        for nth in 0..10 {
            path.keyframe(f64::from(nth) * 3.5, |_| 0.0);
        }
        assert_eq!(path.reports, 0);
    }

    /// A radio that is silent for 80 ms, then delivers what waited at once.
    #[test]
    fn a_stall_is_not_a_slow_path() {
        let mut path = Path::new(20e6, 8e6);
        for nth in 0..10 {
            let held = |packet: usize| match packet {
                20..50 => 0.08 - (packet - 20) as f64 * 1e-3,
                _ => 0.0,
            };
            path.keyframe(f64::from(nth) * 3.5, held);
        }
        assert_eq!(path.reports, 0);
    }

    /// A busy machine reads late now and then: the estimate of a slow path does not fall for it.
    #[test]
    fn stalls_do_not_lower_an_estimate_further() {
        let mut path = Path::new(1e6, 1.5e6);
        for nth in 0..40 {
            let held = |packet: usize| match packet {
                30..45 => 0.15 - (packet - 30) as f64 * 0.01,
                _ => 0.0,
            };
            path.keyframe(60.0 + f64::from(nth) * 3.5, held);
            assert!(path.estimate > 0.75e6, "keyframe {nth}: {}", path.estimate);
        }
    }

    #[test]
    fn a_path_that_gets_slower_and_faster_is_followed() {
        let mut path = Path::new(20e6, 13e6);
        path.keyframe(0.0, |_| 0.0);
        path.rate = 1e6;
        path.keyframe(3.5, |_| 0.0);
        path.keyframe(7.0, |_| 0.0);
        assert!((0.7e6..1.1e6).contains(&path.estimate), "{}", path.estimate);
        path.rate = 20e6;
        for nth in 3..100 {
            path.keyframe(f64::from(nth) * 3.5, |_| 0.0);
        }
        assert!(path.estimate > 12.9e6, "{}", path.estimate);
        assert!(path.limit.limit.is_none());
    }

    #[test]
    fn send_times_wrap_every_64_seconds() {
        assert_eq!(unwrap_send_time(None, 0xff_ffff), 0xff_ffff);
        assert_eq!(unwrap_send_time(Some(0xff_ffff), 1), 0x100_0001);
        assert_eq!(unwrap_send_time(Some(0x100_0001), 0xff_fff0), 0xff_fff0);
    }
}
