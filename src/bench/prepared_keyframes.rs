//! Keyframes to send, encoded in advance on a separate thread, so that the encoder does not disturb the measurement.
//!
//! Each is measured: durations of encoder, decoder and disk, and PSNR and SSIM against the source picture.

use std::{
    path::PathBuf,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    media::{
        decoder::Decoder,
        encoder::{EncoderConfig, KeyframeEncoder},
        h264::AccessUnit,
        quality::Quality,
        sink::{FrameRecord, FrameWriter, PictureFormat},
        source::{self, Captured, Source, SourceOptions},
    },
    session::{
        SessionError,
        capture::{CaptureConfig, age},
        millis, sha256,
    },
    stats::Stages,
    types::Stage,
};

/// Number of keyframes prepared in advance; 13 MB at 100 KB each.
const AHEAD: usize = 128;

/// A keyframe ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct PreparedKeyframe {
    /// The access unit; its `captured_at` is set when it is sent.
    pub(super) access_unit: AccessUnit,
    /// SHA-256 of the access unit, hex.
    pub(super) sha256: String,
    /// Durations of the stages measured in advance, ms; no encoder time if the source was already encoded.
    pub(super) stages: Stages<Option<f64>>,
    /// From capture to the end of the encoding.
    pub(super) prepared: Duration,
    /// Similarity to the source picture; `None` if it cannot be compared.
    pub(super) quality: Option<Quality>,
}

/// The supply of keyframes for all connections of a run.
#[derive(Debug)]
pub(super) struct PreparedKeyframes {
    queue: Mutex<Queue>,
    /// Size of the pictures.
    pub(super) size: (u32, u32),
}

#[derive(Debug)]
struct Queue {
    ready: mpsc::Receiver<Result<PreparedKeyframe, SessionError>>,
    last: PreparedKeyframe,
}

impl PreparedKeyframes {
    /// Opens the source, and waits until `wanted` keyframes are ready, or as many as are prepared in advance; no more
    /// than `wanted` are prepared.
    pub(super) async fn start(config: CaptureConfig, wanted: u64) -> Result<Self, SessionError> {
        let (ready, mut queue) = mpsc::channel(AHEAD);
        let mut left = wanted.saturating_add(1);
        thread::Builder::new()
            .name("keyframes".into())
            .spawn(move || produce(&config, &ready, &mut left))
            .map_err(|error| {
                SessionError::new(
                    Stage::Source,
                    "thread-failed",
                    format!("cannot start the encoder thread: {error}"),
                    "raise the limit on threads (ulimit -u)",
                )
            })?;
        let first = queue.recv().await.unwrap_or_else(|| Err(stopped()))?;
        let size = (first.access_unit.width, first.access_unit.height);
        // The first one only proves that source and encoder work: its times are those of a cold start.
        let ready = usize::try_from(wanted).unwrap_or(AHEAD).min(AHEAD);
        while queue.len() < ready && !queue.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { queue: Mutex::new(Queue { ready: queue, last: first }), size })
    }

    /// The next keyframe. If none is ready in time, the previous one is repeated without its measurements: a slow
    /// encoder must not be mistaken for a slow connection.
    pub(super) fn next(&self) -> Result<PreparedKeyframe, SessionError> {
        let mut queue = self.queue.lock().expect("no holder of this lock panics");
        match queue.ready.try_recv() {
            Ok(Ok(picture)) => {
                queue.last = picture.clone();
                Ok(picture)
            }
            Ok(Err(error)) => Err(error),
            // Its preparation time is that of the previous one.
            Err(_) => Ok(PreparedKeyframe {
                stages: Stages::default(),
                quality: None,
                ..queue.last.clone()
            }),
        }
    }
}

fn stopped() -> SessionError {
    SessionError::new(
        Stage::Source,
        "source-stopped",
        "the encoder thread has stopped",
        "run with -v for the details",
    )
}

fn produce(
    config: &CaptureConfig,
    ready: &mpsc::Sender<Result<PreparedKeyframe, SessionError>>,
    left: &mut u64,
) {
    let mut disk = Disk::new();
    loop {
        let mut count = 0;
        let result = open(config).and_then(|(mut source, mut encoder)| {
            while let Some(picture) = next(source.as_mut(), &mut encoder, &mut disk)? {
                count += 1;
                *left -= 1;
                if ready.blocking_send(Ok(picture)).is_err() || *left == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match result {
            // A source that ends is repeated from its start; for a pipe, its last picture is repeated.
            Ok(true) if count > 0 && config.source.is_repeatable() => {}
            Ok(true) if count > 0 => return,
            Ok(true) => {
                let empty = SessionError::new(
                    Stage::Source,
                    "source-empty",
                    format!("{:?} has no pictures", config.source),
                    "use a source with at least one keyframe or picture",
                );
                let _ = ready.blocking_send(Err(empty));
                return;
            }
            Ok(false) => return,
            Err(error) => {
                let _ = ready.blocking_send(Err(error));
                return;
            }
        }
    }
}

fn open(config: &CaptureConfig) -> Result<(Box<dyn Source>, KeyframeEncoder), SessionError> {
    let source =
        source::open(&config.source, SourceOptions { size: config.size }).map_err(|error| {
            SessionError::new(Stage::Source, "source-failed", error.to_string(), error.remedy())
        })?;
    let settings = EncoderConfig { max_bytes: config.max_bytes, ..EncoderConfig::default() };
    Ok((source, KeyframeEncoder::new(settings).map_err(video)?))
}

fn video(error: impl std::fmt::Display) -> SessionError {
    let remedy = "use another --source or --size, or a larger --max-bytes";
    SessionError::new(Stage::Video, "encode-failed", error.to_string(), remedy)
}

fn next(
    source: &mut dyn Source,
    encoder: &mut KeyframeEncoder,
    disk: &mut Disk,
) -> Result<Option<PreparedKeyframe>, SessionError> {
    let captured = source.next().map_err(|error| {
        SessionError::new(Stage::Source, "source-failed", error.to_string(), error.remedy())
    })?;
    let mut stages = Stages::default();
    let (access_unit, quality) = match captured {
        None => return Ok(None),
        Some(Captured::AccessUnit(unit)) => (unit, None),
        Some(Captured::Frame(frame)) => {
            let convert = millis(source.convert_time());
            stages.convert = Some(convert);
            stages.capture_age = Some((age(frame.captured_at) - convert).max(0.0));
            let encoded = encoder.encode(&frame).map_err(video)?;
            stages.encode = Some(millis(encoded.encode_time));
            let mut decoder = Decoder::new().map_err(video)?;
            let start = Instant::now();
            let decoded = decoder.decode(&encoded.access_unit.data).map_err(video)?;
            stages.decode = Some(millis(start.elapsed()));
            (encoded.access_unit, Quality::between(&frame, &decoded))
        }
    };
    stages.write = disk.write(&access_unit.data);
    let sha256 = sha256(&access_unit.data);
    let parts = [stages.capture_age, stages.convert, stages.encode];
    let prepared = Duration::from_secs_f64(parts.into_iter().flatten().sum::<f64>() / 1e3);
    Ok(Some(PreparedKeyframe { access_unit, sha256, stages, prepared, quality }))
}

/// A temporary directory for measuring the write time; removed at the end.
struct Disk {
    dir: PathBuf,
    writer: Option<FrameWriter>,
}

impl Disk {
    fn new() -> Self {
        let name = format!("orion-peer-bench-{:016x}", rand::random::<u64>());
        let dir = std::env::temp_dir().join(name);
        // Without temporary files, there is no write time, but everything else is measured.
        let writer = FrameWriter::new(&dir, &[PictureFormat::H264]).ok();
        Self { dir, writer }
    }

    /// Writes an access unit as `recv` does; returns the duration, ms.
    fn write(&mut self, access_unit: &[u8]) -> Option<f64> {
        let writer = self.writer.as_mut()?;
        let start = Instant::now();
        let Ok(written) = writer.write(access_unit, None, FrameRecord::default()) else {
            self.writer = None;
            return None;
        };
        let took = millis(start.elapsed());
        for file in written.files {
            let _ = std::fs::remove_file(file);
        }
        Some(took)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
