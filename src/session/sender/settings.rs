//! Settings that the receiver can change by `set`.

use std::time::Duration;

use super::{INTERVAL_RANGE, Sender};
use crate::{
    proto::control::{ControlMessage, Id, Settings},
    session::capture::CaptureRequest,
};

impl Sender<'_> {
    /// Applies a `set`, all of it or nothing; returns the new picture size, if one was requested.
    pub(super) fn set(&mut self, settings: &Settings) -> Result<Option<(u32, u32)>, String> {
        let interval = settings.interval_ms.map(Duration::from_millis);
        if let Some(interval) = interval
            && !(INTERVAL_RANGE.0..=INTERVAL_RANGE.1).contains(&interval)
        {
            return Err("intervalMs must be from 100 to 86400000".into());
        }
        if settings.max_bytes.is_some_and(|bytes| !(1_000..=10_000_000).contains(&bytes)) {
            return Err("maxBytes must be from 1000 to 10000000".into());
        }
        if settings.max_bytes.is_some() && self.capture.is_encoded() {
            return Err("the source is already encoded; its keyframes are sent unchanged".into());
        }
        let wanted = match (settings.width, settings.height) {
            (None, None) => None,
            (Some(w), Some(h)) if (16..=3840).contains(&w) && (16..=3840).contains(&h) => {
                Some((w, h))
            }
            (Some(_), Some(_)) => return Err("width and height must be from 16 to 3840".into()),
            _ => return Err("width and height must be set together".into()),
        };
        let size = wanted.map(|wanted| self.capture.size_in(wanted)).transpose()?;
        if let Some(interval) = interval {
            self.config.interval = interval;
            if let (Some(sent), Some(_)) = (self.last_sent, self.due) {
                self.due = Some(sent + interval);
            }
            self.line(format!("the receiver set the interval to {interval:?}"));
        }
        if let Some(bytes) = settings.max_bytes {
            self.capture.request(CaptureRequest::MaxBytes(bytes as usize));
            self.line(format!("the receiver set the maximum keyframe size to {bytes} bytes"));
        }
        if let Some((width, height)) = size {
            self.capture.request(CaptureRequest::Size(width, height));
            self.line(format!("the receiver set the picture size to {width}x{height}"));
        }
        Ok(size)
    }

    /// The answer to a `set`.
    pub(super) fn answer_set(&mut self, id: Option<Id>, settings: &Settings) -> ControlMessage {
        let (size, error) = match self.set(settings) {
            Ok(size) => (size, None),
            Err(error) => (None, Some(error)),
        };
        let (width, height) = size.unzip();
        ControlMessage::Ack { id, error, width, height }
    }
}
