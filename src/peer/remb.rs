//! The receiver's own estimate of the path's rate, for senders that honor REMB (draft-alvestrand-rmcat-remb-03,
//! `a=rtcp-fb:… goog-remb`) and stamp their packets with the send time (`abs-send-time`).
//!
//! libwebrtc's estimate converges over a continuous stream. With one keyframe every few seconds it stays a little
//! above a slow path's rate, so each keyframe fills the queue in front of the path, and pings wait in that queue.
//! Comparing the packets' arrival times with their send times shows such a queue while it grows; a REMB a little
//! below the arrival rate keeps the following keyframes, and the rest of the current one, from waiting. Nothing is
//! sent as long as no queue grows.

use std::time::{Duration, Instant};

use rtc::{
    interceptor::StreamInfo,
    rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate,
    rtp,
};

/// URI of the header extension: the send time in seconds, 24 bits of which 18 are fractional.
pub(super) const ABS_SEND_TIME_URI: &str =
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

/// Units of the send time in a second: one unit is 2^-18 s.
const UNITS_PER_SECOND: f64 = (1 << 18) as f64;

/// A packet that arrives after a longer pause than this starts a new burst, with an empty queue.
const PAUSE: Duration = Duration::from_millis(250);

/// The minimum delay within this time is that of a standing queue. It exceeds the 40 ms of packets that libwebrtc's
/// pacer sends in one burst (`PacingController::kDefaultBurstInterval`), which wait for each other even without a
/// standing queue.
const STANDING: Duration = Duration::from_millis(60);

/// A standing queue with at least this delay is reported.
const QUEUE: Duration = Duration::from_millis(25);

/// A burst whose standing queue stays below this delay counts as one without a queue: the path may carry more.
const NO_QUEUE: Duration = Duration::from_millis(20);

/// A packet with less delay than this, s, found the queue empty.
const EMPTY: f64 = 0.003;

/// Minimum number of packets from a standing queue before their rate counts as that of the path.
const MIN_PACKETS: usize = 8;

/// If the path's rate spaces the packets, the rate of their median gap and the rate of all packets differ by at most
/// this factor. After a stall of a radio or of the receiver, many packets arrive together.
const EVEN: f64 = 1.5;

/// Share of the path's rate that the sender may use. libwebrtc paces at 1.1 times the estimate.
const SHARE: f64 = 0.9;

/// Factor by which the estimate is raised after bursts without a queue.
const RAISE: f64 = 1.25;

/// Number of bursts without a queue before the estimate is raised; doubled after each raise that caused a queue, up
/// to [`MAX_HOLD`].
const HOLD: u32 = 4;
const MAX_HOLD: u32 = 32;

/// An estimate of this or more, bits/s, limits nothing: it is above the maximum in our answer.
const UNLIMITED: f64 = 15e6;

/// The estimate that is sent to withdraw an earlier one, bits/s.
const WITHDRAWN: f64 = 1e9;

/// How many times a withdrawal is sent, because RTCP may be lost.
const WITHDRAWALS: u32 = 3;

/// Minimum time between two reports within a burst.
const INTERVAL: Duration = Duration::from_millis(50);

/// The properties of a received packet that the estimate needs.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    at: Instant,
    bytes: usize,
    /// Arrival time minus send time, s, from an arbitrary origin.
    delay: f64,
}

/// A burst of packets.
#[derive(Debug, Default)]
struct Burst {
    /// Packets that arrived since the queue was last empty.
    packets: Vec<Arrived>,
    count: usize,
    /// Minimum delay so far, s.
    min_delay: f64,
    /// Maximum delay of a standing queue so far, s.
    max_standing: f64,
}

/// The estimate of the path's rate. It has no sockets and no clock: `now` is an argument.
#[derive(Debug, Default)]
pub(super) struct PathLimit {
    /// First arrival, the origin of delays.
    origin: Option<Instant>,
    /// Send time of the newest packet, extended so that it does not wrap.
    sent: Option<i64>,
    burst: Burst,
    /// The estimate for RTP packets, bits/s; `None` until a queue is seen.
    limit: Option<f64>,
    /// Consecutive bursts without a queue since the estimate was last lowered or raised.
    calm: u32,
    /// Number of such bursts before the estimate is raised.
    hold: u32,
    /// Whether the last change was a raise.
    raised: bool,
    withdrawals: u32,
    reported: Option<Instant>,
}

impl PathLimit {
    /// Records a packet that was sent at `send_time`, 24 bits in units of 2^-18 s. Returns the estimate to send, if
    /// any, bits/s.
    pub(super) fn arrived(&mut self, send_time: u32, bytes: usize, now: Instant) -> Option<f64> {
        let origin = *self.origin.get_or_insert(now);
        let sent = unwrap_send_time(self.sent, send_time);
        self.sent = Some(self.sent.map_or(sent, |newest| newest.max(sent)));
        let delay = now.duration_since(origin).as_secs_f64() - sent as f64 / UNITS_PER_SECOND;
        let packet = Arrived { at: now, bytes, delay };
        let starts = self.burst.packets.last().is_none_or(|last| now - last.at > PAUSE);
        let ended = if starts { self.end_burst() } else { None };
        if starts {
            self.burst = Burst { min_delay: delay, ..Burst::default() };
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
        self.hold =
            if self.raised { (self.hold * 2).clamp(HOLD, MAX_HOLD) } else { self.hold.max(HOLD) };
        (self.raised, self.calm) = (false, 0);
        (self.limit, self.reported, self.withdrawals) = (Some(limit), Some(now), 0);
        Some(limit)
    }

    /// Ends the previous burst: repeats the estimate, or raises it if no queue has been seen for a while.
    fn end_burst(&mut self) -> Option<f64> {
        if self.burst.count < MIN_PACKETS {
            return None;
        }
        if self.withdrawals > 0 {
            self.withdrawals -= 1;
            return Some(WITHDRAWN);
        }
        let limit = self.limit?;
        if self.burst.max_standing > NO_QUEUE.as_secs_f64() {
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
        self.min_delay = self.min_delay.min(packet.delay);
        if packet.delay - self.min_delay < EMPTY {
            self.packets.clear();
        }
        self.packets.push(packet);
        self.count += 1;
        self.max_standing = self.max_standing.max(self.standing());
    }

    /// Delay of the standing queue, s.
    fn standing(&self) -> f64 {
        let [first, .., last] = self.packets.as_slice() else { return 0.0 };
        if last.at - first.at < STANDING {
            return 0.0;
        }
        let newest = self.packets.iter().rev().take_while(|packet| last.at - packet.at < STANDING);
        newest.map(|packet| packet.delay).fold(f64::INFINITY, f64::min) - self.min_delay
    }

    /// The rate at which a standing queue drains, bits/s.
    fn path_rate(&self) -> Option<f64> {
        let [first, rest @ .., last] = self.packets.as_slice() else { return None };
        if rest.len() + 1 < MIN_PACKETS || self.standing() < QUEUE.as_secs_f64() {
            return None;
        }
        let rest = &self.packets[1..];
        let bytes: usize = rest.iter().map(|packet| packet.bytes).sum();
        let rate = bytes as f64 * 8.0 / (last.at - first.at).as_secs_f64();
        let mut gaps: Vec<Duration> =
            self.packets.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        gaps.sort_unstable();
        let median_rate =
            bytes as f64 * 8.0 / rest.len() as f64 / gaps[gaps.len() / 2].as_secs_f64();
        // If something else delayed the packets, most gaps still reflect the pacing of the sender: the estimate
        // stays.
        (median_rate < rate * EVEN && rate.is_finite()).then_some(rate.max(median_rate))
    }
}

/// The send time nearest to the newest one, extended so that it does not wrap: 24 bits wrap every 64 s.
fn unwrap_send_time(newest: Option<i64>, send_time: u32) -> i64 {
    let send_time = i64::from(send_time & 0xff_ffff);
    let Some(newest) = newest else { return send_time };
    let ahead = (send_time - newest).rem_euclid(1 << 24);
    newest + if ahead < 1 << 23 { ahead } else { ahead - (1 << 24) }
}

/// The id of the send time's header extension in the description of a stream, if the peer honors REMB.
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

/// The REMB message with an estimate for one stream of the sender.
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

    /// A simulated path with a queue in front of it.
    struct Path {
        rate: f64,
        start: Instant,
        free_at: f64,
        limit: PathLimit,
        estimate: f64,
        reports: usize,
        max_wait: f64,
    }

    impl Path {
        fn new(rate: f64, estimate: f64) -> Self {
            let start = Instant::now();
            let (limit, free_at) = (PathLimit::default(), 0.0);
            Self { rate, start, free_at, limit, estimate, reports: 0, max_wait: 0.0 }
        }

        /// Sends a keyframe of 100 KB at the rate of the estimate, in bursts of 40 ms like libwebrtc.
        fn keyframe(&mut self, at: f64, jitter: impl Fn(usize) -> f64) {
            let (mut sent, mut reported): (f64, Vec<(f64, f64)>) = (at, Vec::new());
            self.max_wait = 0.0;
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
                self.max_wait = self.max_wait.max(self.free_at - leaves);
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
        assert!(path.max_wait < 0.25, "{}", path.max_wait);
        for nth in 1..40 {
            path.keyframe(60.0 + f64::from(nth) * 3.5, |_| 0.0);
            assert!(path.max_wait < 0.12, "keyframe {nth}: {}", path.max_wait);
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

    /// A radio stalls for 80 ms, then delivers all waiting packets together.
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

    /// A busy machine occasionally reads late: this does not lower the estimate of a slow path.
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
    fn the_estimate_follows_a_path_that_gets_slower_and_faster() {
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
