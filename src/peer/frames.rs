//! Frames of a connection's video, counted. The crate's getStats knows packets only; `framesSent`,
//! `framesDecoded` and their kin are what people look at first. What encodes and decodes stands above the
//! peer and tells it here.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};

/// A frame that was encoded for a connection, or decoded from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodedFrame {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// An IDR picture.
    pub keyframe: bool,
    /// Its mean quantization parameter, where that is known.
    pub qp: Option<f64>,
    /// Time the codec took.
    pub took: Duration,
}

/// The frames of a connection. A peer sends video or receives it, never both.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<Counted>);

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    /// Sent, or complete on arrival.
    carried: u64,
    coded: u64,
    keyframes: u64,
    /// None when that of one of them is not known.
    qp_sum: Option<u64>,
    took: Duration,
    size: Option<(u32, u32)>,
}

impl Frames {
    /// A frame was handed to the network, or is complete.
    pub(super) fn carried(&self, size: Option<(u32, u32)>) {
        let mut counted = self.lock();
        counted.carried += 1;
        counted.size = size.or(counted.size);
    }

    /// A frame was encoded or decoded.
    pub(super) fn coded(&self, frame: &CodedFrame) {
        let mut counted = self.lock();
        let before = if counted.coded == 0 { Some(0) } else { counted.qp_sum };
        // W3C sums whole numbers, which the parameters of a frame's slices are.
        counted.qp_sum = before.zip(frame.qp).map(|(sum, qp)| sum + qp.round() as u64);
        counted.coded += 1;
        counted.keyframes += u64::from(frame.keyframe);
        counted.took += frame.took;
        counted.size = Some((frame.width, frame.height));
    }

    /// Writes what is known into an `outbound-rtp` or `inbound-rtp` object.
    pub(super) fn write(&self, stats: &mut Map<String, Value>) {
        let counted = *self.lock();
        let [carried, coded, keyframes, took] = match stats.get("type").and_then(Value::as_str) {
            Some("outbound-rtp") => {
                ["framesSent", "framesEncoded", "keyFramesEncoded", "totalEncodeTime"]
            }
            _ => ["framesReceived", "framesDecoded", "keyFramesDecoded", "totalDecodeTime"],
        };
        let mut put = |key: &str, value: Value| stats.insert(key.to_owned(), value);
        put(carried, json!(counted.carried));
        // What was coded elsewhere, as a file of H.264 is, cannot be told from nothing.
        if counted.coded > 0 || counted.carried == 0 {
            put(coded, json!(counted.coded));
            put(keyframes, json!(counted.keyframes));
            put(took, json!(counted.took.as_secs_f64()));
        }
        if let Some(sum) = counted.qp_sum {
            put("qpSum", json!(sum));
        }
        if let Some((width, height)) = counted.size {
            put("frameWidth", json!(width));
            put("frameHeight", json!(height));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn what_was_encoded_and_sent_is_told() {
        let frames = Frames::default();
        let none = json!({"type": "outbound-rtp", "framesSent": 0, "framesEncoded": 0,
            "keyFramesEncoded": 0, "totalEncodeTime": 0.0});
        assert_eq!(written(&frames, "outbound-rtp"), none);
        for qp in [30.4, 31.6] {
            let (width, height, took) = (640, 480, Duration::from_millis(250));
            frames.coded(&CodedFrame { width, height, keyframe: true, qp: Some(qp), took });
            frames.carried(Some((width, height)));
        }
        let two = json!({"type": "outbound-rtp", "framesSent": 2, "framesEncoded": 2,
            "keyFramesEncoded": 2, "totalEncodeTime": 0.5, "qpSum": 62, "frameWidth": 640,
            "frameHeight": 480});
        assert_eq!(written(&frames, "outbound-rtp"), two);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let frames = Frames::default();
        frames.carried(Some((320, 240)));
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
