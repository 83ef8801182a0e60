//! Source and encoder on a thread of their own.
//!
//! The thread makes one keyframe whenever it is asked to, so what is sent is as fresh as the source
//! can give it, and nothing on the async threads blocks.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::mpsc;

use super::{SessionError, millis, sha256};
use crate::{
    media::{
        decoder::{DecodeError, Decoder},
        encoder::{EncodeError, EncoderConfig, KeyframeEncoder},
        frame::Frame,
        h264::AccessUnit,
        source::{self, Captured, Source, SourceError, SourceOptions, SourceSpec},
    },
    stats::Stages,
    types::Stage,
};

/// What the thread is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureRequest {
    /// Make a keyframe now.
    Keyframe,
    /// Change the budget of a keyframe, bytes.
    MaxBytes(usize),
    /// Change the box pictures are fitted into.
    Size(u32, u32),
}

/// What the thread gives.
#[derive(Debug)]
pub enum CaptureResult {
    /// A keyframe.
    Keyframe(Box<CapturedKeyframe>),
    /// The source failed but may recover; ask again.
    Retry(SessionError),
    /// The source has ended.
    Ended,
    /// The source or the encoder failed for good.
    Failed(SessionError),
}

/// A keyframe ready to be sent.
#[derive(Debug, Clone)]
pub struct CapturedKeyframe {
    /// The access unit.
    pub access_unit: AccessUnit,
    /// SHA-256 of it, lower-case hex.
    pub sha256: String,
    /// The frame it was encoded from; none for a stream that was encoded before.
    pub original: Option<Arc<Frame>>,
    /// The budget it had, bytes.
    pub max_bytes: usize,
    /// Mean QP of the macroblocks; none for a stream that was encoded before.
    pub qp: Option<f64>,
    /// Encoder passes it took.
    pub passes: u32,
    /// Time the source took.
    pub capture_time: Duration,
    /// Time the encoder took.
    pub encode_time: Duration,
    /// Its stages until it was encoded, ms.
    pub stages: Stages<Option<f64>>,
    /// When it was encoded.
    pub encoded_at: Instant,
    /// Size before the picture was made smaller to fit the budget.
    pub scaled_from: Option<(u32, u32)>,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct CaptureConfig {
    /// Where pictures come from.
    pub source: SourceSpec,
    /// Box they are fitted into.
    pub size: Option<(u32, u32)>,
    /// Largest keyframe, bytes.
    pub max_bytes: usize,
}

/// The asking end of the thread.
#[derive(Debug)]
pub struct Capture {
    requests: std::sync::mpsc::Sender<CaptureRequest>,
    results: mpsc::Receiver<CaptureResult>,
    /// What the source is, for people.
    pub description: String,
    /// Size of the source's pictures once known, else a guess of 720p.
    pub picture_size: (u32, u32),
}

impl Capture {
    /// Opens the source and starts the thread; a first keyframe is made, so that its size is known.
    ///
    /// # Errors
    /// The source cannot be opened or gives nothing, or the encoder refuses its picture.
    pub async fn start(config: CaptureConfig) -> Result<(Self, CapturedKeyframe), SessionError> {
        let (requests, requests_out) = std::sync::mpsc::channel();
        let (results_in, results) = mpsc::channel(1);
        let (opened_in, opened) = tokio::sync::oneshot::channel();
        thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let begun = open(&config).map(|source| (source.describe(), source));
                match begun {
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
                    "raise the limit on threads (ulimit -u)",
                )
            })?;
        let description = opened.await.map_err(|_| stopped())??;
        let mut capture = Self { requests, results, description, picture_size: (1280, 720) };
        capture.ask(CaptureRequest::Keyframe);
        let first = match capture.result().await {
            CaptureResult::Keyframe(keyframe) => *keyframe,
            CaptureResult::Retry(error) | CaptureResult::Failed(error) => return Err(error),
            CaptureResult::Ended => {
                return Err(SessionError::new(
                    Stage::Source,
                    "source-empty",
                    format!("{} has no picture", capture.description),
                    "give a source with at least one keyframe or picture",
                ));
            }
        };
        let unit = &first.access_unit;
        capture.picture_size = first.scaled_from.unwrap_or((unit.width, unit.height));
        Ok((capture, first))
    }

    /// Asks; the answer comes from [`Capture::result`].
    pub fn ask(&self, request: CaptureRequest) {
        // A thread that is gone says so by its last result.
        let _ = self.requests.send(request);
    }

    /// The next result. Cancel safe.
    pub async fn result(&mut self) -> CaptureResult {
        self.results.recv().await.unwrap_or_else(|| CaptureResult::Failed(stopped()))
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

/// Whether the source is worth asking again: a camera comes back.
fn may_recover(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::CameraBusy { .. }
            | SourceError::CameraDenied { .. }
            | SourceError::CameraFormat { .. }
            | SourceError::CameraGone { .. }
            | SourceError::ListCameras { .. }
            | SourceError::CameraSilent { .. }
            | SourceError::Camera { .. }
    )
}

fn encode_error(error: &EncodeError) -> SessionError {
    SessionError::new(
        Stage::Video,
        "encode-failed",
        error.to_string(),
        "give another --size or a larger --max-bytes",
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
            CaptureRequest::Keyframe => keyframe(source.as_mut(), &mut encoder, size),
        };
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
    let begun = Instant::now();
    let captured = match source.next() {
        Ok(Some(captured)) => captured,
        Ok(None) => return CaptureResult::Ended,
        Err(error) if may_recover(&error) => return CaptureResult::Retry(source_error(&error)),
        Err(error) => return CaptureResult::Failed(source_error(&error)),
    };
    let frame = match captured {
        Captured::AccessUnit(access_unit) if access_unit.data.len() <= encoder.max_bytes() => {
            return CaptureResult::Keyframe(Box::new(CapturedKeyframe {
                capture_time: begun.elapsed(),
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
            }));
        }
        // One that is encoded already, but over the budget: encoded again.
        Captured::AccessUnit(unit) => match decoded(&unit.data) {
            Ok(frame) => Frame { captured_at: unit.captured_at, ..frame },
            Err(error) => {
                return CaptureResult::Failed(SessionError::new(
                    Stage::Video,
                    "keyframe-over-budget",
                    format!(
                        "a keyframe of {} bytes is over the budget and cannot be decoded to be \
                         made smaller: {error}",
                        unit.data.len()
                    ),
                    "give a larger --max-bytes, or another source",
                ));
            }
        },
        Captured::Frame(frame) => frame,
    };
    let fitting = Instant::now();
    let frame = match size.map(|(width, height)| frame.fit(width, height)) {
        Some(Ok(fitted)) => fitted,
        Some(Err(error)) => {
            tracing::warn!("the size asked for cannot be had: {error}");
            frame
        }
        None => frame,
    };
    let capture_time = begun.elapsed();
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
        })),
        Err(error) => CaptureResult::Failed(encode_error(&error)),
    }
}

/// How old a picture is, ms.
pub(crate) fn age(captured_at: SystemTime) -> f64 {
    millis(captured_at.elapsed().unwrap_or_default())
}

/// The picture of a keyframe, as the encoder takes it.
fn decoded(access_unit: &[u8]) -> Result<Frame, DecodeError> {
    Ok(Decoder::new()?.decode(access_unit)?.into_bt601()?)
}
