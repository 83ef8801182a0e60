//! Decoder and disk on a thread of their own.
//!
//! Access units go in in the order they came; what became of each comes out. The queue is bounded:
//! when the disk is slower than the stream, the network side waits, and nothing that was received
//! is thrown away. The hash is compared here, too: it takes time like the decoder.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{SessionError, millis, sha256};
use crate::{
    media::{
        decoder::Decoder,
        h264,
        sink::{FrameRecord, FrameWriter, PictureFormat, Written},
    },
    stats::Stages,
    types::Stage,
};

/// Access units that may wait for the disk.
const QUEUE: usize = 64;

/// An access unit to decode and to write.
#[derive(Debug, Clone)]
pub struct Received {
    /// Annex B form.
    pub data: Bytes,
    /// What is known of it; size and picture come from the decoder, and the hash is computed here.
    pub record: FrameRecord,
    /// The hash its sender told, if it told one.
    pub told_sha256: Option<String>,
    /// When its last packet came.
    pub completed: Instant,
    /// Whether it came right after packets that were lost for good.
    pub after_loss: bool,
}

/// What became of an access unit.
#[derive(Debug)]
pub enum Stored {
    /// A keyframe is on disk.
    Written(Box<OnDisk>),
    /// A picture between keyframes was decoded; such are not written.
    Passed,
    /// A picture between keyframes that cannot be decoded: a keyframe is wanted.
    Broken(String),
    /// The disk failed.
    Failed(SessionError),
}

/// A keyframe on disk.
#[derive(Debug)]
pub struct OnDisk {
    /// Its files and its line.
    pub written: Written,
    /// Time the decoder took.
    pub decode_time: Duration,
    /// Time writing took, syncing included.
    pub write_time: Duration,
    /// The stages from its last packet to the disk, ms.
    pub stages: Stages<Option<f64>>,
    /// When it was on the disk.
    pub written_at: SystemTime,
    /// Why there is no picture beside it, when there is none.
    pub undecoded: Option<String>,
}

/// The asking end of the thread.
#[derive(Debug)]
pub struct Store {
    input: mpsc::Sender<Received>,
    output: mpsc::UnboundedReceiver<Stored>,
}

impl Store {
    /// Starts the thread, which checks the directory first.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or the decoder cannot start.
    pub async fn start(dir: &Path, formats: &[PictureFormat]) -> Result<Self, SessionError> {
        let (input, input_out) = mpsc::channel(QUEUE);
        let (output_in, output) = mpsc::unbounded_channel();
        let (ready_in, ready) = tokio::sync::oneshot::channel();
        let (dir, formats) = (dir.to_owned(), formats.to_vec());
        let body = move || match open(&dir, &formats) {
            Ok((writer, decoder)) => {
                if ready_in.send(Ok(())).is_ok() {
                    run(writer, decoder, input_out, &output_in);
                }
            }
            Err(error) => {
                let _ = ready_in.send(Err(error));
            }
        };
        thread::Builder::new().name("store".into()).spawn(body).map_err(|error| {
            SessionError::new(
                Stage::Output,
                "thread-failed",
                format!("cannot start the writing thread: {error}"),
                "raise the limit on threads (ulimit -u)",
            )
        })?;
        ready.await.map_err(|_| stopped())??;
        Ok(Self { input, output })
    }

    /// Hands an access unit over; waits when the disk is behind.
    pub async fn put(&self, received: Received) {
        // A thread that is gone says so through `next`.
        let _ = self.input.send(received).await;
    }

    /// The next outcome; `None` when the thread is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Stored> {
        self.output.recv().await
    }

    /// Waits until everything handed over is on disk, and gives the outcomes that were left.
    pub async fn finish(self) -> Vec<Stored> {
        let Self { input, mut output } = self;
        drop(input);
        let mut left = Vec::new();
        while let Some(stored) = output.recv().await {
            left.push(stored);
        }
        left
    }
}

/// The thread is gone without a word.
pub(super) fn stopped() -> SessionError {
    SessionError::new(
        Stage::Output,
        "thread-failed",
        "the writing thread has stopped",
        "run with -v for the details",
    )
}

fn open(dir: &Path, formats: &[PictureFormat]) -> Result<(FrameWriter, Decoder), SessionError> {
    let writer = FrameWriter::new(dir, formats).map_err(|error| sink_error(&error))?;
    let decoder = Decoder::new().map_err(|error| {
        let remedy = "run with -v for the details";
        SessionError::new(Stage::Video, "decoder-failed", error.to_string(), remedy)
    })?;
    Ok((writer, decoder))
}

fn sink_error(error: &crate::media::sink::SinkError) -> SessionError {
    SessionError::new(
        Stage::Output,
        "write-failed",
        error.to_string(),
        "check the path, its permissions and the room on its disk; what was received before is complete",
    )
}

fn run(
    mut writer: FrameWriter,
    mut decoder: Decoder,
    mut input: mpsc::Receiver<Received>,
    output: &mpsc::UnboundedSender<Stored>,
) {
    // After a loss only a keyframe can be trusted.
    let mut waiting = true;
    while let Some(received) = input.blocking_recv() {
        let keyframe = h264::is_keyframe(&received.data);
        if received.after_loss && !keyframe {
            waiting = true;
        }
        let stored = if keyframe {
            waiting = false;
            keyframe_stored(&mut writer, &mut decoder, received)
        } else if waiting {
            Stored::Broken("a picture that builds on one that was lost".into())
        } else {
            match decoder.decode(&received.data) {
                Ok(_) => Stored::Passed,
                Err(error) => {
                    waiting = true;
                    Stored::Broken(error.to_string())
                }
            }
        };
        let failed = matches!(stored, Stored::Failed(_));
        if output.send(stored).is_err() || failed {
            return;
        }
    }
}

fn keyframe_stored(writer: &mut FrameWriter, decoder: &mut Decoder, received: Received) -> Stored {
    let mut record = received.record;
    record.sha256 = sha256(&received.data);
    record.verified = received.told_sha256.map(|told| told.eq_ignore_ascii_case(&record.sha256));
    let begun = Instant::now();
    let reassemble = begun.saturating_duration_since(received.completed);
    let decoded = decoder.decode(&received.data);
    let decode_time = begun.elapsed();
    if let Ok(frame) = &decoded {
        (record.width, record.height) = (frame.width, frame.height);
    } else if let Some((width, height)) = h264::dimensions(&received.data) {
        (record.width, record.height) = (width, height);
    }
    let begun = Instant::now();
    match writer.write(&received.data, decoded.as_ref().ok(), record) {
        Ok(written) => {
            let write_time = begun.elapsed();
            let stages = Stages {
                reassemble: Some(millis(reassemble)),
                decode: Some(millis(decode_time)),
                write: Some(millis(write_time)),
                ..Stages::default()
            };
            Stored::Written(Box::new(OnDisk {
                written,
                decode_time,
                write_time,
                stages,
                written_at: SystemTime::now(),
                undecoded: decoded.err().map(|error| error.to_string()),
            }))
        }
        Err(error) => Stored::Failed(sink_error(&error)),
    }
}
