//! Counts the frames of a connection's video for getStats. The crate counts only packets, while users look first at
//! `framesSent`, `framesDecoded` and related values. The code that encodes and decodes is above the peer and reports
//! here.

use std::{sync::Mutex, time::Duration};

use serde_json::{Map, Value, json};

use crate::lock::locked;

/// A frame that was encoded for a connection, or decoded from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodedFrame {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Whether it is an IDR picture.
    pub keyframe: bool,
    /// Its mean quantization parameter, if known.
    pub qp: Option<f64>,
    /// Time that encoding or decoding took.
    pub took: Duration,
}

/// The frames of a connection. A peer sends video or receives it, never both.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<FrameCounts>);

#[derive(Debug, Clone, Copy, Default)]
struct FrameCounts {
    /// Frames sent, or received completely.
    transferred: u64,
    coded: u64,
    keyframes: u64,
    /// `None` if the quantization parameter of any frame is unknown.
    qp_sum: Option<u64>,
    took: Duration,
    size: Option<(u32, u32)>,
}

impl Frames {
    /// Counts a frame that was sent, or received completely.
    pub(super) fn transferred(&self, size: Option<(u32, u32)>) {
        let mut counted = self.lock();
        counted.transferred += 1;
        counted.size = size.or(counted.size);
    }

    /// Counts a frame that was encoded or decoded.
    pub(super) fn coded(&self, frame: &CodedFrame) {
        let mut counted = self.lock();
        let before = if counted.coded == 0 { Some(0) } else { counted.qp_sum };
        // W3C sums integers, because a frame's slices have integer parameters.
        counted.qp_sum = before.zip(frame.qp).map(|(sum, qp)| sum + qp.round() as u64);
        counted.coded += 1;
        counted.keyframes += u64::from(frame.keyframe);
        counted.took += frame.took;
        counted.size = Some((frame.width, frame.height));
    }

    /// Writes the known values into an `outbound-rtp` or `inbound-rtp` object.
    pub(super) fn write(&self, stats: &mut Map<String, Value>) {
        let counted = *self.lock();
        let [transferred, coded, keyframes, took] = match stats.get("type").and_then(Value::as_str)
        {
            Some("outbound-rtp") => {
                ["framesSent", "framesEncoded", "keyFramesEncoded", "totalEncodeTime"]
            }
            _ => ["framesReceived", "framesDecoded", "keyFramesDecoded", "totalDecodeTime"],
        };
        let mut insert_stat = |key: &str, value: Value| stats.insert(key.to_owned(), value);
        insert_stat(transferred, json!(counted.transferred));
        // If frames were coded elsewhere, as in an H.264 file, their number is unknown, not zero.
        if counted.coded > 0 || counted.transferred == 0 {
            insert_stat(coded, json!(counted.coded));
            insert_stat(keyframes, json!(counted.keyframes));
            insert_stat(took, json!(counted.took.as_secs_f64()));
        }
        if let Some(sum) = counted.qp_sum {
            insert_stat("qpSum", json!(sum));
        }
        if let Some((width, height)) = counted.size {
            insert_stat("frameWidth", json!(width));
            insert_stat("frameHeight", json!(height));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FrameCounts> {
        locked(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(frames: &Frames, kind: &str) -> Value {
        let mut stats = Map::from_iter([("type".to_owned(), json!(kind))]);
        frames.write(&mut stats);
        stats.into()
    }

    #[test]
    fn encoded_and_sent_frames_are_reported() {
        let frames = Frames::default();
        let none = json!({"type": "outbound-rtp", "framesSent": 0, "framesEncoded": 0,
            "keyFramesEncoded": 0, "totalEncodeTime": 0.0});
        assert_eq!(written(&frames, "outbound-rtp"), none);
        for qp in [30.4, 31.6] {
            let (width, height, took) = (640, 480, Duration::from_millis(250));
            frames.coded(&CodedFrame { width, height, keyframe: true, qp: Some(qp), took });
            frames.transferred(Some((width, height)));
        }
        let two = json!({"type": "outbound-rtp", "framesSent": 2, "framesEncoded": 2,
            "keyFramesEncoded": 2, "totalEncodeTime": 0.5, "qpSum": 62, "frameWidth": 640,
            "frameHeight": 480});
        assert_eq!(written(&frames, "outbound-rtp"), two);
    }

    #[test]
    fn unknown_values_are_omitted() {
        let frames = Frames::default();
        frames.transferred(Some((320, 240)));
        let sent =
            json!({"type": "outbound-rtp", "framesSent": 1, "frameWidth": 320, "frameHeight": 240});
        assert_eq!(written(&frames, "outbound-rtp"), sent);
        let (keyframe, took) = (false, Duration::ZERO);
        frames.coded(&CodedFrame { width: 320, height: 240, keyframe, qp: None, took });
        let decoded = json!({"type": "inbound-rtp", "framesReceived": 1, "framesDecoded": 1,
            "keyFramesDecoded": 0, "totalDecodeTime": 0.0, "frameWidth": 320, "frameHeight": 240});
        assert_eq!(written(&frames, "inbound-rtp"), decoded);
    }
}
