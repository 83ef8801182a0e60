//! The encoder: turns every frame into a keyframe within a budget of bytes (`OpenH264`).
//!
//! Rate control cannot target the size of single IDR pictures, so the picture is encoded a few times at
//! selected QPs (see `search`), and the two results nearest the budget are mixed (see `slices`). One
//! persistent encoder produces all of them. Each access unit is exactly one SPS, one PPS and the
//! slices; consecutive IDR pictures differ in `idr_pic_id`, as §7.4.3 requires.

mod error;
mod option;
mod search;
mod slices;
mod vui;

use std::time::{Duration, Instant};

use bytes::Bytes;
use openh264::{
    OpenH264API,
    encoder::{Encoder, IntraFramePeriod, RateControlMode, SpsPpsStrategy},
    formats::YUVSlices,
};

pub use self::error::EncodeError;
use self::{
    search::Search,
    slices::{Mixed, Pass},
};
use super::{
    colour::Colour,
    frame::{Frame, FrameError, fitted},
    h264::AccessUnit,
};

/// Minimum side that `OpenH264` encodes, in pixels.
pub const MIN_SIDE: u32 = 16;
/// Maximum picture size that `OpenH264` encodes: 3840 on the longer side, 2160 on the shorter.
pub const MAX_SIDES: (u32, u32) = (3840, 2160);
/// Minimum budget in bytes: a gray picture of 16x16 pixels takes about 60.
pub const MIN_BUDGET: usize = 200;

/// The size of a smaller picture is chosen so that it fills this share of the budget.
const SHRINK_MARGIN: f64 = 0.8;
/// A smaller picture is planned for this many QP steps below the maximum: a slightly smaller picture
/// looks better than a blocky one.
const SHRINK_STEPS: u8 = 6;
/// Number of keyframes after which the full size is tried again.
const GROW_AFTER: u32 = 8;
/// The full size is tried immediately when the scene has become easier by this many QP steps.
const GROW_STEPS: u8 = 4;

/// Effort of the encoder; `OpenH264`'s `Medium` and `High` give the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Complexity {
    /// A third faster, with pictures about 5 % larger.
    Low,
    /// The default.
    #[default]
    Medium,
}

/// Configuration of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Maximum size of one access unit, in bytes.
    pub max_bytes: usize,
    /// Effort of the encoder.
    pub complexity: Complexity,
}

impl Default for EncoderConfig {
    /// 100 KB (100,000 bytes) per keyframe.
    fn default() -> Self {
        Self { max_bytes: 100_000, complexity: Complexity::default() }
    }
}

/// A keyframe and how it was encoded.
#[derive(Debug, Clone)]
pub struct EncodedKeyframe {
    /// The access unit: SPS, PPS, IDR slices.
    pub access_unit: AccessUnit,
    /// Mean QP of the macroblocks, 0 to 51.
    pub qp: f64,
    /// Number of encoder passes.
    pub passes: u32,
    /// Total time of all passes.
    pub encode_time: Duration,
    /// The size of the frame, if its picture had to be scaled down to fit the budget.
    pub scaled_from: Option<(u32, u32)>,
}

/// Encodes every frame as a keyframe of at most `max_bytes`.
pub struct KeyframeEncoder {
    config: EncoderConfig,
    running: Option<Running>,
    /// The estimate for the previous picture, and the QP that fitted.
    last: Option<(f64, u8)>,
    /// Alternates between 0 and 1.
    idr_pic_id: u32,
    shrunk: Option<Shrunk>,
}

/// `OpenH264` and its current settings.
struct Running {
    encoder: Encoder,
    size: (u32, u32),
    colour: Colour,
    /// Number of macroblocks of each slice.
    slices: Vec<u32>,
}

/// Pictures are currently encoded smaller than their frames.
#[derive(Clone, Copy)]
struct Shrunk {
    from: (u32, u32),
    to: (u32, u32),
    /// Number of keyframes since the full size was last tried.
    keyframes: u32,
    /// QP of the smaller picture when the full size was last tried, and now.
    qp_then: u8,
    qp_now: u8,
}

/// Result of a search.
struct Found {
    /// The picture, and the QP that fitted.
    best: Option<(Mixed, u8)>,
    passes: u32,
    /// Size at QP 51, if that was over the budget.
    smallest: Option<usize>,
}

impl KeyframeEncoder {
    /// Creates an encoder; `OpenH264` is started at the first frame.
    ///
    /// # Errors
    /// The budget is below [`MIN_BUDGET`].
    pub fn new(config: EncoderConfig) -> Result<Self, EncodeError> {
        check_budget(config.max_bytes)?;
        Ok(Self { config, running: None, last: None, idr_pic_id: 0, shrunk: None })
    }

    /// Creates an encoder with the same configuration and no state, to continue after an error.
    ///
    /// # Errors
    /// See [`KeyframeEncoder::new`].
    pub fn fresh(&self) -> Result<Self, EncodeError> {
        Self::new(self.config)
    }

    /// The budget in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.config.max_bytes
    }

    /// Changes the budget, starting with the next frame.
    ///
    /// # Errors
    /// The budget is below [`MIN_BUDGET`]; the previous one remains.
    pub fn set_max_bytes(&mut self, max_bytes: usize) -> Result<(), EncodeError> {
        check_budget(max_bytes)?;
        if max_bytes != self.config.max_bytes {
            self.config.max_bytes = max_bytes;
            self.shrunk = None;
        }
        Ok(())
    }

    /// Encodes a frame as one keyframe that fills `max_bytes` as far as possible; if it does not fit
    /// even at QP 51, the picture is scaled down.
    ///
    /// # Errors
    /// The frame is smaller or larger than `OpenH264` supports, or `OpenH264` fails.
    pub fn encode(&mut self, frame: &Frame) -> Result<EncodedKeyframe, EncodeError> {
        let begin = Instant::now();
        check_size(frame.width, frame.height)?;
        let full = (frame.width, frame.height);
        let (mut size, mut begin_at) = self.planned_size(full);
        let mut passes = 0;
        let (mixed, size) = loop {
            let scaled = (size != full).then(|| frame.resize(size.0, size.1)).transpose()?;
            let found = self.search(scaled.as_ref().unwrap_or(frame), begin_at)?;
            passes += found.passes;
            if let Some((mixed, qp)) = found.best {
                self.note_size(full, size, qp);
                break (mixed, size);
            }
            (size, begin_at) = self.next_size(full, size, found.smallest)?;
        };
        self.idr_pic_id ^= 1;
        Ok(EncodedKeyframe {
            access_unit: AccessUnit {
                data: Bytes::from(mixed.data),
                width: size.0,
                height: size.1,
                captured_at: frame.captured_at,
            },
            qp: mixed.qp,
            passes,
            encode_time: begin.elapsed(),
            scaled_from: (size != full).then_some(full),
        })
    }

    /// Encodes at several QPs and mixes the two results just below and just above the budget.
    fn search(&mut self, frame: &Frame, begin_at: Option<u8>) -> Result<Found, EncodeError> {
        let estimate = search::estimate(frame, self.config.max_bytes);
        let start = match self.last {
            // The same scene.
            Some((before, qp)) if (estimate - before).abs() < 1.0 => qp,
            _ => estimate.round() as u8,
        };
        let mut search = Search::new(self.config.max_bytes, begin_at.unwrap_or(start));
        let (mut fits, mut over): (Option<Pass>, Option<Pass>) = (None, None);
        while let Some(qp) = search.next() {
            let pass = self.encode_at(frame, qp)?;
            search.record(qp, pass.as_ref().map(Pass::len));
            match pass {
                Some(pass) if pass.len() <= self.config.max_bytes => fits = Some(pass),
                pass => over = pass,
            }
        }
        let smallest = over.as_ref().filter(|over| over.qp == search::MAX_QP).map(Pass::len);
        let macroblocks = self.running.as_ref().map_or(&[][..], |running| &running.slices);
        let best = fits.map(|fits| {
            self.last = Some((estimate, fits.qp));
            let mixed = slices::mix(&fits, over.as_ref(), self.config.max_bytes, macroblocks);
            (mixed, fits.qp)
        });
        Ok(Found { best, passes: search.passes(), smallest })
    }

    /// Runs one pass; returns `None` when the picture is too large for `OpenH264`'s own buffers.
    fn encode_at(&mut self, frame: &Frame, qp: u8) -> Result<Option<Pass>, EncodeError> {
        let size = (frame.width, frame.height);
        // The colors cannot be changed later.
        let running = self.running.take().filter(|running| running.colour == frame.colour);
        let mut running = match running {
            Some(running) if running.size == size => running,
            other => Running::start(other, size, self.config.complexity, frame.colour)?,
        };
        option::set_qp(&mut running.encoder, qp).map_err(|code| EncodeError::SetQp { qp, code })?;
        // After an error the state of OpenH264 is lost, so `running` is dropped.
        let Ok(stream) = running.encoder.encode(&planes(frame)) else { return Ok(None) };
        let pass = Pass::read(&stream.to_vec(), qp, self.idr_pic_id);
        self.running = Some(running);
        Ok(pass)
    }

    /// The picture size to start with (the frame's size, or the size that the last picture was scaled
    /// down to), and the QP unless it is to be estimated.
    fn planned_size(&self, full: (u32, u32)) -> ((u32, u32), Option<u8>) {
        let Some(shrunk) = self.shrunk.filter(|shrunk| shrunk.from == full) else {
            return (full, None);
        };
        let easier = shrunk.qp_now + GROW_STEPS <= shrunk.qp_then;
        if shrunk.keyframes < GROW_AFTER && !easier {
            return (shrunk.to, None);
        }
        // One pass at the maximum QP shows whether the full size fits again.
        (full, Some(search::MAX_QP))
    }

    /// The picture size to try when `size` does not fit (the size that fitted before, or else a smaller
    /// one), and the QP to start with.
    fn next_size(
        &mut self,
        full: (u32, u32),
        size: (u32, u32),
        smallest: Option<usize>,
    ) -> Result<((u32, u32), Option<u8>), EncodeError> {
        let (width, height) = full;
        if let Some(shrunk) = &mut self.shrunk
            && shrunk.from == full
            && size == full
        {
            (shrunk.keyframes, shrunk.qp_then) = (0, shrunk.qp_now);
            return Ok((shrunk.to, Some(shrunk.qp_now)));
        }
        let max_bytes = self.config.max_bytes;
        let size = self.smaller(full, size, smallest);
        let size = size.ok_or(EncodeError::DoesNotFit { width, height, max_bytes })?;
        Ok((size, Some(search::MAX_QP - SHRINK_STEPS)))
    }

    /// A smaller picture size that should fit, given the size in bytes at QP 51.
    fn smaller(
        &self,
        full: (u32, u32),
        size: (u32, u32),
        bytes: Option<usize>,
    ) -> Option<(u32, u32)> {
        let budget = self.config.max_bytes as f64 * SHRINK_MARGIN;
        let steps = f64::from(SHRINK_STEPS) * 0.125;
        let area = bytes.map_or(0.25, |bytes| budget / (bytes as f64 * steps.exp()));
        let ratio = area.sqrt().min(0.8);
        let scaled = |pixels: u32| ((f64::from(pixels) * ratio) as u32).max(2);
        let next = fitted(full, (scaled(size.0), scaled(size.1))).ok()?;
        (next.0 >= MIN_SIDE && next.1 >= MIN_SIDE && next != size).then_some(next)
    }

    fn note_size(&mut self, full: (u32, u32), size: (u32, u32), qp: u8) {
        let before = self.shrunk.filter(|shrunk| (shrunk.from, shrunk.to) == (full, size));
        self.shrunk = (size != full).then_some(Shrunk {
            from: full,
            to: size,
            keyframes: before.map_or(0, |shrunk| shrunk.keyframes + 1),
            qp_then: before.map_or(qp, |shrunk| shrunk.qp_then),
            qp_now: qp,
        });
    }
}

impl Running {
    /// Configures `OpenH264` for a picture size and its slices. It first encodes a gray picture,
    /// because `OpenH264` accepts options only after that.
    fn start(
        running: Option<Self>,
        size: (u32, u32),
        complexity: Complexity,
        colour: Colour,
    ) -> Result<Self, EncodeError> {
        let (width, height) = size;
        let wrong = |cause| EncodeError::Start { width, height, cause };
        let mut encoder = if let Some(running) = running {
            running.encoder
        } else {
            let settings = settings(complexity).vui(vui::of(colour));
            Encoder::with_api_config(OpenH264API::from_source(), settings).map_err(wrong)?
        };
        let (w, h) = (width as usize, height as usize);
        let grey = vec![128; w * h];
        let chroma = &grey[..w * h / 4];
        let grey = YUVSlices::new((&grey, chroma, chroma), (w, h), (w, w / 2, w / 2));
        encoder.encode(&grey).map_err(wrong)?;
        let slices = slices::layout(size);
        option::set_slices(&mut encoder, &slices).map_err(|code| EncodeError::SetSlices {
            width,
            height,
            code,
        })?;
        Ok(Self { encoder, size, colour, slices })
    }
}

fn settings(complexity: Complexity) -> openh264::encoder::EncoderConfig {
    openh264::encoder::EncoderConfig::new()
        .rate_control_mode(RateControlMode::Off)
        .skip_frames(false)
        .intra_frame_period(IntraFramePeriod::from_num_frames(1))
        .sps_pps_strategy(SpsPpsStrategy::ConstantId)
        .scene_change_detect(false)
        .background_detection(false)
        .num_threads(1)
        .complexity(match complexity {
            Complexity::Low => openh264::encoder::Complexity::Low,
            Complexity::Medium => openh264::encoder::Complexity::Medium,
        })
}

fn planes(frame: &Frame) -> YUVSlices<'_> {
    let (w, h) = (frame.width as usize, frame.height as usize);
    YUVSlices::new((&frame.y, &frame.u, &frame.v), (w, h), (w, w / 2, w / 2))
}

/// The size at which a frame of size `from` fits both the box `to` and the encoder, with the aspect
/// ratio preserved.
///
/// # Errors
/// A side of the box or of the frame is less than 2 pixels.
pub fn bounded(from: (u32, u32), to: (u32, u32)) -> Result<(u32, u32), FrameError> {
    let (longer, shorter) = MAX_SIDES;
    let limit = if from.0 >= from.1 { (longer, shorter) } else { (shorter, longer) };
    fitted(from, (to.0.min(limit.0), to.1.min(limit.1)))
}

/// Like [`bounded`], for a picture that is to be encoded.
///
/// # Errors
/// A side of the result is below [`MIN_SIDE`].
pub fn encodable(from: (u32, u32), to: (u32, u32)) -> Result<(u32, u32), EncodeError> {
    let (width, height) = bounded(from, to)?;
    check_size(width, height)?;
    Ok((width, height))
}

fn check_budget(max_bytes: usize) -> Result<(), EncodeError> {
    if max_bytes < MIN_BUDGET {
        return Err(EncodeError::BudgetTooSmall { max_bytes });
    }
    Ok(())
}

fn check_size(width: u32, height: u32) -> Result<(), EncodeError> {
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(EncodeError::TooSmall { width, height });
    }
    if width.max(height) > MAX_SIDES.0 || width.min(height) > MAX_SIDES.1 {
        return Err(EncodeError::TooLarge { width, height });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_the_box_and_the_encoder() {
        let size = |from, to| encodable(from, to).ok();
        assert_eq!(size((320, 240), (3840, 3840)), Some((2880, 2160)));
        assert_eq!(size((240, 320), (3840, 3840)), Some((2160, 2880)));
        assert_eq!(size((100, 100), (3840, 3840)), Some((2160, 2160)));
        assert_eq!(size((320, 240), (160, 3840)), Some((160, 120)));
        for small in [(16, 16), (17, 17), (16, 3840), (0, 0)] {
            assert_eq!(size((320, 240), small), None, "{small:?}");
        }
        assert_eq!(size((320, 240), (22, 17)), Some((22, 16)));
    }
}
