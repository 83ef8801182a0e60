//! What our answer says to the bandwidth estimate and the encoder of a phone that runs libwebrtc: parameters of its
//! own in the H.264 format (`x-google-start-bitrate` and its kin, kbit/s; `media/base/media_constants.cc`), which others
//! ignore (RFC 6184 §8.2.2: unrecognized parameters).

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rtc::sdp::description::{common::Attribute, media::MediaDescription};

use crate::{stats::delivery::Delivery, units};

/// What a phone's bandwidth estimate starts with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PhoneBitrate {
    /// What lets keyframes of 100 KB come at once and at full size, see [`Hints::of`].
    #[default]
    Auto,
    /// Nothing: the phone's defaults.
    Off,
    /// This rate, bits a second.
    Rate(u64),
}

impl FromStr for PhoneBitrate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            rate => units::bit_rate(rate).map(Self::Rate).map_err(|error| {
                format!("{error}; a phone's bitrate is auto, off or a rate such as 5Mbit")
            }),
        }
    }
}

impl fmt::Display for PhoneBitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Rate(rate) => write!(f, "{}kbit", *rate as f64 / 1e3),
        }
    }
}

/// What the estimate is never above, kbit/s. Without it libwebrtc probes 5 Mbit/s at most (`kDefaultMaxProbingBitrate`)
/// and its encoder gets 2.5 Mbit/s; its pacer sends at 1.1 times the estimate. At 13 Mbit/s a keyframe of 100 KB takes
/// 50 ms, and those of Chromium's encoder are 60 to 110 KB, the pipeline's budget; at 20 and 40 Mbit/s they are
/// up to 150 and 215 KB (`scripts/phone.sh`).
const MOST: u64 = 13_000;

/// Where the estimate begins on a path that is not known, kbit/s. The first probes are of three and six times this,
/// 100 ms each (`first_exponential_probe_scale` and its kin in libwebrtc's `probe_controller.cc`), and those that succeed
/// are followed by twice as much. Over RTX they are padding, which leaves at once, so it can be little: at 1 and 2 Mbit/s
/// a queue of 32 KB dropped nothing with 1.5 Mbit/s, and 28 to 45 packets with 4.3. Else they are the packets of the
/// first keyframes.
const START_WITH_PADDING: u64 = 1_500;
const START: u64 = 3_000;

/// The least start, kbit/s: below 500 libwebrtc drops its first four pictures of 720 lines.
const LEAST: u64 = 600;

/// A start whose first probe is of the path's rate.
const PROBE_SCALE: u64 = 3;

/// The parameters, kbit/s. There is no minimum (`x-google-min-bitrate`): above the uplink's rate it floods that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Where the estimate begins.
    pub start: u64,
    /// What the estimate is never above, and what the encoder may take of it.
    pub max: u64,
}

impl Hints {
    /// The hints for a setting; none when nothing is to be said. `padding`: the phone may probe with padding over RTX.
    #[must_use]
    pub fn of(setting: PhoneBitrate, padding: bool, path: &PhonePath) -> Option<Self> {
        let start = match (setting, path.rate()) {
            (PhoneBitrate::Off, _) => return None,
            (PhoneBitrate::Rate(rate), _) => (rate / 1000).max(1),
            (PhoneBitrate::Auto, Some(rate)) => {
                (rate / 1000 / PROBE_SCALE).clamp(LEAST, MOST / PROBE_SCALE)
            }
            (PhoneBitrate::Auto, None) if padding => START_WITH_PADDING,
            (PhoneBitrate::Auto, None) => START,
        };
        Some(Self { start, max: MOST.max(start) })
    }

    fn words(&self) -> String {
        let Self { start, max } = self;
        format!("x-google-start-bitrate={start};x-google-max-bitrate={max}")
    }

    /// Adds them to each H.264 format of a video m-line.
    pub(super) fn write(&self, line: &mut MediaDescription) {
        if line.media_name.media != "video" {
            return;
        }
        let formats: Vec<String> = line.attributes.iter().filter_map(h264_format).collect();
        for format in formats {
            let is_its = |attribute: &&mut Attribute| {
                let value = attribute.value.as_deref().unwrap_or_default();
                attribute.key == "fmtp" && value.split_whitespace().next() == Some(&format)
            };
            let its = line.attributes.iter_mut().find(is_its);
            if let Some(value) = its.and_then(|attribute| attribute.value.as_mut()) {
                value.push(';');
                value.push_str(&self.words());
            } else {
                let value = Some(format!("{format} {}", self.words()));
                line.attributes.push(Attribute { key: "fmtp".to_owned(), value });
            }
        }
    }
}

/// The rate that a phone's keyframes were seen to arrive at: what its next connection begins with. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PhonePath(Arc<AtomicU64>);

/// Packets of a keyframe that say something of the path: fewer leave in one burst of libwebrtc's pacer (63 KB).
const TELLING: u32 = 60;

impl PhonePath {
    /// Bits a second over the wire; none when nothing was seen yet.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// A keyframe arrived in so many packets. Retransmissions arrive later than the path needs, so a keyframe that has
    /// some says nothing.
    pub(in crate::peer) fn arrived(&self, packets: u32, delivery: &Delivery) {
        if let Some(rate) = delivery.rate
            && packets >= TELLING
            && delivery.retransmitted == 0
        {
            self.0.store(rate, Ordering::Relaxed);
        }
    }
}

/// The format of an `a=rtpmap` of H.264.
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
    fn a_setting_is_a_word_or_a_rate() {
        for (text, setting) in [
            ("auto", PhoneBitrate::Auto),
            ("off", PhoneBitrate::Off),
            ("5000kbit", PhoneBitrate::Rate(5_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(setting));
            assert_eq!(setting.to_string(), text);
        }
        assert!("fast".parse::<PhoneBitrate>().unwrap_err().contains("auto, off or a rate"));
    }
    #[test]
    fn the_start_follows_what_was_seen_of_the_path() {
        let path = PhonePath::default();
        // Evenly, so many of them, the first of which may be a retransmission.
        let arrived = |bytes: usize, packets: u32, resent: u32, spread: Duration| {
            let arrival = |number| Arrival {
                at: spread * number / (packets - 1),
                bytes: bytes / packets as usize + WIRE_OVERHEAD,
                retransmitted: number < resent,
            };
            path.arrived(packets, &Delivery::of((0..packets).map(arrival).collect()));
        };
        let start = |setting, padding| Hints::of(setting, padding, &path).map(|hints| hints.start);
        assert_eq!(start(PhoneBitrate::Auto, true), Some(START_WITH_PADDING));
        assert_eq!(start(PhoneBitrate::Auto, false), Some(START));
        assert_eq!(start(PhoneBitrate::Off, true), None);
        assert_eq!(start(PhoneBitrate::Rate(5_000_000), true), Some(5_000));
        // 85 packets over 5 Mbit/s.
        arrived(100_000, 85, 0, Duration::from_millis(166));
        assert_eq!(path.rate().unwrap() / 100_000, 50);
        assert_eq!(start(PhoneBitrate::Auto, true), Some(path.rate().unwrap() / 3000));
        // Neither repaired nor small ones count.
        arrived(100_000, 85, 1, Duration::from_secs(9));
        arrived(30_000, 26, 0, Duration::from_secs(9));
        arrived(100_000, 85, 0, Duration::ZERO);
        assert_eq!(path.rate().unwrap() / 100_000, 50);
        // Neither so slow that pictures are dropped, nor above what is probed.
        arrived(100_000, 85, 0, Duration::from_secs(1));
        assert_eq!(start(PhoneBitrate::Auto, true), Some(LEAST));
        arrived(100_000, 85, 0, Duration::from_millis(1));
        let fast = Hints::of(PhoneBitrate::Auto, true, &path).unwrap();
        assert_eq!((fast.start, fast.max), (MOST / 3, MOST));
        let above = Hints::of(PhoneBitrate::Rate(40_000_000), true, &path).unwrap();
        assert_eq!((above.start, above.max), (40_000, 40_000));
    }

    #[test]
    fn each_h264_format_has_them_and_no_other() {
        let sdp = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 102 103 104\r\na=rtpmap:102 H264/90000\r\n\
            a=fmtp:102 packetization-mode=1\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
            a=rtpmap:104 h264/90000\r\nm=audio 9 UDP/TLS/RTP/SAVPF 102\r\na=rtpmap:102 H264/90000\r\n";
        let mut description = SessionDescription::unmarshal(&mut Cursor::new(sdp)).unwrap();
        let hints = Hints { start: 1000, max: 13_000 };
        description.media_descriptions.iter_mut().for_each(|line| hints.write(line));
        let written = description.marshal();
        let words = "x-google-start-bitrate=1000;x-google-max-bitrate=13000\r\n";
        assert!(written.contains(&format!("a=fmtp:102 packetization-mode=1;{words}")), "{written}");
        assert!(written.contains(&format!("a=fmtp:104 {words}")), "{written}");
        assert!(written.contains("a=fmtp:103 apt=102\r\n"), "{written}");
        assert_eq!(written.matches("x-google-start").count(), 2, "{written}");
    }
}
