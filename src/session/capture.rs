//! Source and encoder on a dedicated thread.
//!
//! The thread makes one keyframe per request, so every keyframe is as recent as the source allows, and nothing
//! on the async threads blocks.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::mpsc;

use super::{SessionError, millis, sha256};
use crate::{
    media::{
        encoder::{self, EncodeError, EncoderConfig, KeyframeEncoder},
        frame::Frame,
        guarded,
        h264::AccessUnit,
        source::{self, Captured, Source, SourceError, SourceOptions, SourceSpec},
    },
    peer::config::level_holds,
    stats::Stages,
    types::Stage,
};

/// A request to the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureRequest {
    /// Make a keyframe now.
    Keyframe,
    /// Change the maximum keyframe size, in bytes.
    MaxBytes(usize),
    /// Change the box that pictures are fitted into, in pixels.
    Size(u32, u32),
}

/// A result from the thread.
#[derive(Debug)]
pub enum CaptureResult {
    /// A keyframe.
    Keyframe(Box<CapturedKeyframe>),
    /// This picture could not be encoded, or the source failed temporarily; request again.
    Retry(SessionError),
    /// The source has ended.
    Ended,
    /// The source failed permanently.
    Failed(SessionError),
}

/// A keyframe ready to be sent.
#[derive(Debug, Clone)]
pub struct CapturedKeyframe {
    /// The access unit.
    pub access_unit: AccessUnit,
    /// SHA-256 of the access unit in lowercase hex.
    pub sha256: String,
    /// The frame it was encoded from; `None` for an already encoded source.
    pub original: Option<Arc<Frame>>,
    /// Its budget in bytes; an already encoded keyframe may exceed it.
    pub max_bytes: usize,
    /// Mean QP of the macroblocks; `None` for an already encoded source.
    pub qp: Option<f64>,
    /// Number of encoder passes.
    pub passes: u32,
    /// Time spent in the source.
    pub capture_time: Duration,
    /// Time spent in the encoder.
    pub encode_time: Duration,
    /// Durations of the stages up to encoding, in ms.
    pub stages: Stages<Option<f64>>,
    /// When it was encoded.
    pub encoded_at: Instant,
    /// Original size, if the picture was scaled down to fit the budget.
    pub scaled_from: Option<(u32, u32)>,
    /// Size of the source's frame before it was fitted into the box; `None` for an already encoded source.
    pub frame_size: Option<(u32, u32)>,
}

impl CapturedKeyframe {
    /// The keyframe was held until now while its source stood still, so its capture time moves forward by that
    /// much. Its preparation time remains part of its age.
    pub(super) fn waited(&mut self) {
        let now = Instant::now();
        let kept = now.saturating_duration_since(self.encoded_at);
        let captured_at = &mut self.access_unit.captured_at;
        *captured_at = captured_at.checked_add(kept).unwrap_or(*captured_at);
        self.encoded_at = now;
    }
}

/// Configuration of a capture.
#[derive(Debug, Clone)]
pub struct CaptureConfig {
    /// The source of pictures.
    pub source: SourceSpec,
    /// Box that pictures are fitted into, in pixels.
    pub size: Option<(u32, u32)>,
    /// Maximum size of a keyframe encoded here, in bytes.
    pub max_bytes: usize,
}

/// Handle of the thread.
#[derive(Debug)]
pub struct Capture {
    requests: std::sync::mpsc::Sender<CaptureRequest>,
    results: mpsc::Receiver<CaptureResult>,
    /// Human-readable description of the source.
    pub description: String,
    /// Size of the source's pictures once known, otherwise 720p.
    pub picture_size: (u32, u32),
    /// Size of the last frame, if the source delivers frames.
    frame_size: Option<(u32, u32)>,
}

impl Capture {
    /// Opens the source, starts the thread and makes a first keyframe, so that the picture size is known.
    ///
    /// # Errors
    /// The source cannot be opened or is empty, or its picture cannot be encoded.
    pub async fn start(config: CaptureConfig) -> Result<(Self, CapturedKeyframe), SessionError> {
        let (requests, requests_out) = std::sync::mpsc::channel();
        let (results_in, results) = mpsc::channel(1);
        let (opened_in, opened) = tokio::sync::oneshot::channel();
        thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let opened = open(&config).map(|source| (source.describe(), source));
                match opened {
                    Ok((description, source)) => {
                        if opened_in.send(Ok(description)).is_ok() {
                            run(source, &config, &requests_out, &results_in);
                        }
                    }
                    Err(error) => {
                        let _ = opened_in.send(Err(error));
                    }
                }
            })
            .map_err(|error| {
                SessionError::new(
                    Stage::Source,
                    "thread-failed",
                    format!("cannot start the capture thread: {error}"),
                    "raise the thread limit (ulimit -u)",
                )
            })?;
        let description = opened.await.map_err(|_| stopped())??;
        let mut capture =
            Self { requests, results, description, picture_size: (1280, 720), frame_size: None };
        capture.request(CaptureRequest::Keyframe);
        let first = match capture.result().await {
            CaptureResult::Keyframe(keyframe) => *keyframe,
            CaptureResult::Retry(error) | CaptureResult::Failed(error) => return Err(error),
            CaptureResult::Ended => {
                return Err(SessionError::new(
                    Stage::Source,
                    "source-empty",
                    format!("{} has no picture", capture.description),
                    "use a source with at least one keyframe or picture",
                ));
            }
        };
        let unit = &first.access_unit;
        capture.picture_size = first.scaled_from.unwrap_or((unit.width, unit.height));
        Ok((capture, first))
    }

    /// Sends a request; the result comes from [`Capture::result`].
    pub fn request(&self, request: CaptureRequest) {
        // A stopped thread is reported by `result`.
        let _ = self.requests.send(request);
    }

    /// The next result. Cancel safe.
    pub async fn result(&mut self) -> CaptureResult {
        let result = self.results.recv().await;
        if let Some(CaptureResult::Keyframe(keyframe)) = &result {
            self.frame_size = keyframe.frame_size;
        }
        result.unwrap_or_else(|| CaptureResult::Failed(stopped()))
    }

    /// Whether the source is already encoded, so that its size and budget cannot be changed.
    #[must_use]
    pub fn is_encoded(&self) -> bool {
        self.frame_size.is_none()
    }

    /// The size at which pictures like the last one are encoded to fit this box, within the limits of the encoder
    /// and of the offered H.264 level.
    ///
    /// # Errors
    /// There is no such size; the error is the reason, for the peer that requested it.
    pub fn size_in(&self, (width, height): (u32, u32)) -> Result<(u32, u32), String> {
        let Some(from) = self.frame_size else {
            return Err("the source is already encoded; its pictures keep their size".into());
        };
        encoder::encodable(from, level_box(from, (width, height), self.picture_size)).map_err(
            |error| {
                let (w, h) = from;
                format!("pictures of {w}x{h} do not fit into {width}x{height}: {error}")
            },
        )
    }
}

fn stopped() -> SessionError {
    SessionError::new(
        Stage::Source,
        "thread-failed",
        "the capture thread has stopped",
        "run with -v for the details",
    )
}

fn open(config: &CaptureConfig) -> Result<Box<dyn Source>, SessionError> {
    source::open(&config.source, SourceOptions { size: config.size })
        .map_err(|error| source_error(&error))
}

fn source_error(error: &SourceError) -> SessionError {
    SessionError::new(Stage::Source, "source-failed", error.to_string(), error.remedy())
}

/// The box, reduced until a picture of size `from` fitted into it stays within the H.264 level of pictures of
/// size `offered`.
fn level_box(from: (u32, u32), mut wanted: (u32, u32), offered: (u32, u32)) -> (u32, u32) {
    while let Ok((width, height)) = encoder::bounded(from, wanted)
        && !level_holds(offered, (width, height))
    {
        wanted = (width - width / 16 - 1, height - height / 16 - 1);
    }
    wanted
}

fn encode_error(error: &dyn std::fmt::Display) -> SessionError {
    SessionError::new(
        Stage::Video,
        "encode-failed",
        error.to_string(),
        "use another --size or a larger --max-bytes",
    )
}

fn run(
    mut source: Box<dyn Source>,
    config: &CaptureConfig,
    requests: &std::sync::mpsc::Receiver<CaptureRequest>,
    results: &mpsc::Sender<CaptureResult>,
) {
    let encoder_config = EncoderConfig { max_bytes: config.max_bytes, ..EncoderConfig::default() };
    let mut encoder = match KeyframeEncoder::new(encoder_config) {
        Ok(encoder) => encoder,
        Err(error) => {
            let _ = results.blocking_send(CaptureResult::Failed(encode_error(&error)));
            return;
        }
    };
    let mut size = None;
    while let Ok(request) = requests.recv() {
        let result = match request {
            CaptureRequest::MaxBytes(bytes) => {
                if let Err(error) = encoder.set_max_bytes(bytes) {
                    tracing::warn!("{error}");
                }
                continue;
            }
            CaptureRequest::Size(width, height) => {
                size = Some((width, height));
                continue;
            }
            CaptureRequest::Keyframe => {
                let made = guarded(|| keyframe(source.as_mut(), &mut encoder, size));
                made.unwrap_or_else(|panic| CaptureResult::Retry(encode_error(&panic)))
            }
        };
        if matches!(result, CaptureResult::Retry(_))
            && let Ok(fresh) = encoder.fresh()
        {
            encoder = fresh;
        }
        if results.blocking_send(result).is_err() {
            return;
        }
    }
}

fn keyframe(
    source: &mut dyn Source,
    encoder: &mut KeyframeEncoder,
    size: Option<(u32, u32)>,
) -> CaptureResult {
    let started = Instant::now();
    let captured = match source.next() {
        Ok(Some(captured)) => captured,
        Ok(None) => return CaptureResult::Ended,
        Err(error) if error.is_final() => return CaptureResult::Failed(source_error(&error)),
        Err(error) => return CaptureResult::Retry(source_error(&error)),
    };
    let frame = match captured {
        // An already encoded access unit is sent unchanged, whatever its size.
        Captured::AccessUnit(access_unit) => {
            return CaptureResult::Keyframe(Box::new(CapturedKeyframe {
                capture_time: started.elapsed(),
                encoded_at: Instant::now(),
                sha256: sha256(&access_unit.data),
                stages: Stages {
                    capture_age: Some(age(access_unit.captured_at)),
                    ..Stages::default()
                },
                access_unit,
                original: None,
                max_bytes: encoder.max_bytes(),
                qp: None,
                passes: 0,
                encode_time: Duration::ZERO,
                scaled_from: None,
                frame_size: None,
            }));
        }
        Captured::Frame(frame) => frame,
    };
    let fitting = Instant::now();
    let frame_size = (frame.width, frame.height);
    let frame = match size.map(|size| resized(&frame, size)) {
        Some(Ok(resized)) => resized,
        // The size was checked for the previous pictures; this one has another aspect ratio.
        Some(Err(error)) => {
            tracing::warn!("cannot scale the picture to the requested size: {error}");
            frame
        }
        None => frame,
    };
    let capture_time = started.elapsed();
    let convert = millis(source.convert_time() + fitting.elapsed());
    let stages = Stages {
        capture_age: Some((age(frame.captured_at) - convert).max(0.0)),
        convert: Some(convert),
        ..Stages::default()
    };
    match encoder.encode(&frame) {
        Ok(encoded) => CaptureResult::Keyframe(Box::new(CapturedKeyframe {
            encoded_at: Instant::now(),
            sha256: sha256(&encoded.access_unit.data),
            stages: Stages { encode: Some(millis(encoded.encode_time)), ..stages },
            access_unit: encoded.access_unit,
            original: Some(Arc::new(frame)),
            max_bytes: encoder.max_bytes(),
            qp: Some(encoded.qp),
            passes: encoded.passes,
            capture_time,
            encode_time: encoded.encode_time,
            scaled_from: encoded.scaled_from,
            frame_size: Some(frame_size),
        })),
        Err(error) => CaptureResult::Retry(encode_error(&error)),
    }
}

/// The picture, scaled to the maximum size that the box and the encoder allow.
fn resized(frame: &Frame, size: (u32, u32)) -> Result<Frame, EncodeError> {
    let (width, height) = encoder::encodable((frame.width, frame.height), size)?;
    Ok(frame.resize(width, height)?)
}

/// Age of a picture, in ms.
pub(crate) fn age(captured_at: SystemTime) -> f64 {
    millis(captured_at.elapsed().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the entries of its list, starting from the end; `None` panics.
    struct Script(Vec<Option<Result<Option<Captured>, SourceError>>>);

    impl Source for Script {
        fn describe(&self) -> String {
            "a script".into()
        }

        fn next(&mut self) -> Result<Option<Captured>, SourceError> {
            self.0.pop().expect("too many requests").expect("a picture that makes a library panic")
        }
    }

    fn grey(width: u32, height: u32) -> Captured {
        let bytes = vec![99; (width * height * 3 / 2) as usize];
        let frame = Frame::from_i420(width, height, &bytes, SystemTime::now()).unwrap();
        Captured::Frame(frame)
    }

    fn unreadable() -> SourceError {
        SourceError::Picture { name: "a.jpg".into(), cause: "cut off".into() }
    }

    #[test]
    fn only_a_failed_or_ended_source_ends_the_run() {
        let large = AccessUnit {
            data: [0, 0, 0, 1, 0x65, 0x88].repeat(1_000).into(),
            width: 64,
            height: 48,
            captured_at: SystemTime::now(),
        };
        let gone = SourceError::Read { name: "x".into(), cause: std::io::ErrorKind::Other.into() };
        let mut script = vec![
            Some(Ok(Some(grey(64, 48)))),
            Some(Err(unreadable())),
            Some(Ok(Some(grey(64, 48)))),
            // Too small for the encoder, and too large.
            Some(Ok(Some(grey(8, 8)))),
            Some(Ok(Some(grey(3000, 2400)))),
            // Over the budget, but already encoded.
            Some(Ok(Some(Captured::AccessUnit(large)))),
            None,
            Some(Ok(Some(grey(64, 48)))),
            Some(Err(gone)),
            Some(Ok(None)),
        ];
        let expected =
            ["ok", "retry", "ok", "retry", "retry", "ok", "retry", "ok", "failed", "ended"];
        script.reverse();
        let config = CaptureConfig {
            source: SourceSpec::Pattern { width: 64, height: 48 },
            size: None,
            max_bytes: 2_000,
        };
        let (requests, requests_out) = std::sync::mpsc::channel();
        let (results_in, mut results) = mpsc::channel(1);
        let thread = thread::spawn(move || {
            run(Box::new(Script(script)), &config, &requests_out, &results_in);
        });
        for expected in expected {
            requests.send(CaptureRequest::Keyframe).unwrap();
            let result = results.blocking_recv().unwrap();
            let outcome = match &result {
                CaptureResult::Keyframe(_) => "ok",
                CaptureResult::Retry(_) => "retry",
                CaptureResult::Ended => "ended",
                CaptureResult::Failed(_) => "failed",
            };
            assert_eq!(outcome, expected, "{result:?}");
        }
        drop(requests);
        thread.join().unwrap();
    }

    #[test]
    fn a_box_is_filled_as_far_as_the_level_allows() {
        let size =
            |wanted| encoder::encodable((320, 240), level_box((320, 240), wanted, (320, 240)));
        let (width, height) = size((3840, 3840)).unwrap();
        assert!(width > 1_000 && level_holds((320, 240), (width, height)), "{width}x{height}");
        assert_eq!(size((640, 480)).unwrap(), (640, 480));
        assert!(size((16, 3840)).is_err());
    }
}
