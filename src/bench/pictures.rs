//! Keyframes to send, encoded ahead on a thread of their own, so that the encoder takes no time from
//! what is measured.
//!
//! Each is measured: how long encoder, decoder and disk took, and its PSNR and SSIM against the picture
//! that went in.

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

/// Keyframes made ahead; 13 MB at 100 KB each.
const AHEAD: usize = 128;

/// A keyframe ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// The access unit; its `captured_at` is set when it is sent.
    pub(super) access_unit: AccessUnit,
    /// SHA-256 of it, hex.
    pub(super) sha256: String,
    /// The stages that were measured ahead, ms; no encoder when it was encoded already.
    pub(super) stages: Stages<Option<f64>>,
    /// From the picture being taken to its being encoded.
    pub(super) prepared: Duration,
    /// How near it comes to what was encoded; none when it cannot be compared.
    pub(super) quality: Option<Quality>,
}

/// Gives keyframes to all connections of a run.
#[derive(Debug)]
pub(super) struct Pictures {
    queue: Mutex<Queue>,
    /// Size of the pictures.
    pub(super) size: (u32, u32),
}

#[derive(Debug)]
struct Queue {
    made: mpsc::Receiver<Result<Picture, SessionError>>,
    last: Picture,
}

impl Pictures {
    /// Opens the source, and waits until as many keyframes are ready as `wanted` or as are made ahead;
    /// no more than are wanted are made.
    pub(super) async fn start(config: CaptureConfig, wanted: u64) -> Result<Self, SessionError> {
        let (made, mut queue) = mpsc::channel(AHEAD);
        let mut left = wanted.saturating_add(1);
        thread::Builder::new()
            .name("pictures".into())
            .spawn(move || produce(&config, &made, &mut left))
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
        // The first one only shows that source and encoder work: it is cold.
        let ready = usize::try_from(wanted).unwrap_or(AHEAD).min(AHEAD);
        while queue.len() < ready && !queue.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { queue: Mutex::new(Queue { made: queue, last: first }), size })
    }

    /// The next keyframe. One that is not ready in time is the one before once more, without its
    /// measures: a slow encoder must not pass for a slow connection.
    pub(super) fn next(&self) -> Result<Picture, SessionError> {
        let mut queue = self.queue.lock().expect("no holder of this lock panics");
        match queue.made.try_recv() {
            Ok(Ok(picture)) => {
                queue.last = picture.clone();
                Ok(picture)
            }
            Ok(Err(error)) => Err(error),
            // It took as long to prepare as it did before.
            Err(_) => {
                Ok(Picture { stages: Stages::default(), quality: None, ..queue.last.clone() })
            }
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
    made: &mpsc::Sender<Result<Picture, SessionError>>,
    left: &mut u64,
) {
    let mut disk = Disk::new();
    loop {
        let mut count = 0;
        let result = open(config).and_then(|(mut source, mut encoder)| {
            while let Some(picture) = next(source.as_mut(), &mut encoder, &mut disk)? {
                count += 1;
                *left -= 1;
                if made.blocking_send(Ok(picture)).is_err() || *left == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match result {
            // A source that ends is shown again from its beginning; of a pipe the last picture stays.
            Ok(true) if count > 0 && config.source.is_repeatable() => {}
            Ok(true) if count > 0 => return,
            Ok(true) => {
                let empty = SessionError::new(
                    Stage::Source,
                    "source-empty",
                    format!("{:?} has no picture", config.source),
                    "give a source with at least one keyframe or picture",
                );
                let _ = made.blocking_send(Err(empty));
                return;
            }
            Ok(false) => return,
            Err(error) => {
                let _ = made.blocking_send(Err(error));
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
    let remedy = "give another --source, --size or a larger --max-bytes";
    SessionError::new(Stage::Video, "encode-failed", error.to_string(), remedy)
}

fn next(
    source: &mut dyn Source,
    encoder: &mut KeyframeEncoder,
    disk: &mut Disk,
) -> Result<Option<Picture>, SessionError> {
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
            let begun = Instant::now();
            let decoded = decoder.decode(&encoded.access_unit.data).map_err(video)?;
            stages.decode = Some(millis(begun.elapsed()));
            (encoded.access_unit, Quality::between(&frame, &decoded))
        }
    };
    stages.write = disk.write(&access_unit.data);
    let sha256 = sha256(&access_unit.data);
    let parts = [stages.capture_age, stages.convert, stages.encode];
    let prepared = Duration::from_secs_f64(parts.into_iter().flatten().sum::<f64>() / 1e3);
    Ok(Some(Picture { access_unit, sha256, stages, prepared, quality }))
}

/// A directory of its own among the temporary files, to see how long writing takes; gone at the end.
struct Disk {
    dir: PathBuf,
    writer: Option<FrameWriter>,
}

impl Disk {
    fn new() -> Self {
        let name = format!("orion-peer-bench-{:016x}", rand::random::<u64>());
        let dir = std::env::temp_dir().join(name);
        // Without room for temporary files there is no such time: everything else is measured.
        let writer = FrameWriter::new(&dir, &[PictureFormat::H264]).ok();
        Self { dir, writer }
    }

    /// Writes an access unit as `recv` does; the time it took, ms.
    fn write(&mut self, access_unit: &[u8]) -> Option<f64> {
        let writer = self.writer.as_mut()?;
        let begun = Instant::now();
        let Ok(written) = writer.write(access_unit, None, FrameRecord::default()) else {
            self.writer = None;
            return None;
        };
        let took = millis(begun.elapsed());
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
