//! Hints in our answer for the bandwidth estimate and the encoder of a phone that runs libwebrtc: parameters of the
//! H.264 format that libwebrtc defines (`x-google-start-bitrate` and related ones, kbit/s;
//! `media/base/media_constants.cc`) and other implementations ignore (RFC 6184 §8.2.2).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rtc::sdp::description::{common::Attribute, media::MediaDescription};

use crate::{stats::delivery::Delivery, units::RateSetting};

/// Upper limit of the estimate, kbit/s. Without it libwebrtc probes up to 5 Mbit/s (`kDefaultMaxProbingBitrate`)
/// and its encoder gets 2.5 Mbit/s; its pacer sends at 1.1 times the estimate. At 13 Mbit/s a keyframe of 100 KB
/// takes 50 ms, and keyframes of Chromium's encoder are 60 to 110 KB, the pipeline's budget; at 20 and 40 Mbit/s
/// they are up to 150 and 215 KB (`scripts/phone.sh`).
const MAX: u64 = 13_000;

/// Initial estimate for an unknown path, kbit/s. The first probes run at three and six times this, 100 ms each
/// (`first_exponential_probe_scale` and related settings in libwebrtc's `probe_controller.cc`), and a successful
/// probe is followed by one at twice its rate. With RTX, probes are padding, which leaves immediately, so the value
/// can be low: on paths of 1 and 2 Mbit/s, a queue of 32 KB dropped nothing with a start of 1.5 Mbit/s and 28 to 45
/// packets with 4.3. Without RTX, probes are the packets of the first keyframes.
const START_WITH_PADDING: u64 = 1_500;
const START: u64 = 3_000;

/// Minimum start, kbit/s: below 500, libwebrtc drops its first four 720p pictures.
const MIN_START: u64 = 600;

/// A start at the path's rate divided by this makes the first probe run at the path's rate.
const PROBE_SCALE: u64 = 3;

/// The parameters, kbit/s. There is no minimum (`x-google-min-bitrate`): it would flood an uplink slower than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Initial estimate, kbit/s.
    pub start: u64,
    /// Upper limit of the estimate, and of the encoder's share of it, kbit/s.
    pub max: u64,
}

impl Hints {
    /// The hints for a setting; none if the answer should contain none. `padding` is whether the phone may probe with
    /// padding over RTX. `Auto` chooses rates at which keyframes of 100 KB arrive immediately and at full size.
    #[must_use]
    pub fn of(setting: RateSetting, padding: bool, path: &PhonePath) -> Option<Self> {
        let start = match (setting, path.rate()) {
            (RateSetting::Off, _) => return None,
            (RateSetting::Rate(rate), _) => (rate / 1000).max(1),
            (RateSetting::Auto, Some(rate)) => {
                (rate / 1000 / PROBE_SCALE).clamp(MIN_START, MAX / PROBE_SCALE)
            }
            (RateSetting::Auto, None) if padding => START_WITH_PADDING,
            (RateSetting::Auto, None) => START,
        };
        Some(Self { start, max: MAX.max(start) })
    }

    fn parameters(&self) -> String {
        let Self { start, max } = self;
        format!("x-google-start-bitrate={start};x-google-max-bitrate={max}")
    }

    /// Adds the hints to each H.264 format of a video m-line.
    pub(super) fn write(&self, line: &mut MediaDescription) {
        if line.media_name.media != "video" {
            return;
        }
        let formats: Vec<String> = line.attributes.iter().filter_map(h264_format).collect();
        for format in formats {
            let describes_format = |attribute: &&mut Attribute| {
                let value = attribute.value.as_deref().unwrap_or_default();
                attribute.key == "fmtp" && value.split_whitespace().next() == Some(&format)
            };
            let existing = line.attributes.iter_mut().find(describes_format);
            if let Some(value) = existing.and_then(|attribute| attribute.value.as_mut()) {
                value.push(';');
                value.push_str(&self.parameters());
            } else {
                let value = Some(format!("{format} {}", self.parameters()));
                line.attributes.push(Attribute { key: "fmtp".to_owned(), value });
            }
        }
    }
}

/// The measured arrival rate of a phone's keyframes, from which its next connection starts. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PhonePath(Arc<AtomicU64>);

/// Minimum number of packets of a keyframe that measures the path: fewer fit into one burst of libwebrtc's pacer (63
/// KB).
const MIN_PACKETS: u32 = 60;

impl PhonePath {
    /// Bits per second on the wire; none if nothing has been measured yet.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// A keyframe arrived in this many packets. Retransmissions arrive later than the path requires, so a keyframe
    /// that contains any is not used.
    pub(in crate::peer) fn arrived(&self, packets: u32, delivery: &Delivery) {
        if let Some(rate) = delivery.rate
            && packets >= MIN_PACKETS
            && delivery.retransmitted == 0
        {
            self.0.store(rate, Ordering::Relaxed);
        }
    }
}

/// The payload type of an `a=rtpmap`, if it is H.264.
fn h264_format(attribute: &Attribute) -> Option<String> {
    let mut words = attribute.value.as_deref().filter(|_| attribute.key == "rtpmap")?.split(' ');
    let format = words.next()?;
    let is_h264 = words.next()?.to_ascii_uppercase().starts_with("H264/");
    is_h264.then(|| format.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, time::Duration};

    use rtc::sdp::SessionDescription;

    use super::*;
    use crate::{peer::pacing::WIRE_OVERHEAD, stats::delivery::Arrival};

    #[test]
    fn the_start_follows_the_measured_path() {
        let path = PhonePath::default();
        // Evenly spaced packets, the first `resent` of which are retransmissions.
        let arrived = |bytes: usize, packets: u32, resent: u32, spread: Duration| {
            let arrival = |number| Arrival {
                at: spread * number / (packets - 1),
                bytes: bytes / packets as usize + WIRE_OVERHEAD,
                retransmitted: number < resent,
            };
            path.arrived(packets, &Delivery::of((0..packets).map(arrival).collect()));
        };
        let start = |setting, padding| Hints::of(setting, padding, &path).map(|hints| hints.start);
        assert_eq!(start(RateSetting::Auto, true), Some(START_WITH_PADDING));
        assert_eq!(start(RateSetting::Auto, false), Some(START));
        assert_eq!(start(RateSetting::Off, true), None);
        assert_eq!(start(RateSetting::Rate(5_000_000), true), Some(5_000));
        // 85 packets over 5 Mbit/s.
        arrived(100_000, 85, 0, Duration::from_millis(166));
        assert_eq!(path.rate().unwrap() / 100_000, 50);
        assert_eq!(start(RateSetting::Auto, true), Some(path.rate().unwrap() / 3000));
        // Repaired keyframes do not count, nor do small ones.
        arrived(100_000, 85, 1, Duration::from_secs(9));
        arrived(30_000, 26, 0, Duration::from_secs(9));
        arrived(100_000, 85, 0, Duration::ZERO);
        assert_eq!(path.rate().unwrap() / 100_000, 50);
        // The start is never so low that pictures are dropped, nor above the probed rate.
        arrived(100_000, 85, 0, Duration::from_secs(1));
        assert_eq!(start(RateSetting::Auto, true), Some(MIN_START));
        arrived(100_000, 85, 0, Duration::from_millis(1));
        let fast = Hints::of(RateSetting::Auto, true, &path).unwrap();
        assert_eq!((fast.start, fast.max), (MAX / 3, MAX));
        let above = Hints::of(RateSetting::Rate(40_000_000), true, &path).unwrap();
        assert_eq!((above.start, above.max), (40_000, 40_000));
    }

    #[test]
    fn only_h264_formats_get_the_hints() {
        let sdp = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 102 103 104\r\na=rtpmap:102 H264/90000\r\n\
            a=fmtp:102 packetization-mode=1\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
            a=rtpmap:104 h264/90000\r\nm=audio 9 UDP/TLS/RTP/SAVPF 102\r\na=rtpmap:102 H264/90000\r\n";
        let mut description = SessionDescription::unmarshal(&mut Cursor::new(sdp)).unwrap();
        let hints = Hints { start: 1000, max: 13_000 };
        description.media_descriptions.iter_mut().for_each(|line| hints.write(line));
        let written = description.marshal();
        let parameters = "x-google-start-bitrate=1000;x-google-max-bitrate=13000\r\n";
        assert!(
            written.contains(&format!("a=fmtp:102 packetization-mode=1;{parameters}")),
            "{written}"
        );
        assert!(written.contains(&format!("a=fmtp:104 {parameters}")), "{written}");
        assert!(written.contains("a=fmtp:103 apt=102\r\n"), "{written}");
        assert_eq!(written.matches("x-google-start").count(), 2, "{written}");
    }
}
