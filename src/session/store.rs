//! Decoder and disk on a dedicated thread.
//!
//! Access units go in, in the order of their arrival, and an event for each comes out. The queue is bounded: when
//! the disk is slower than the stream, the network side waits, and nothing that was received is discarded. Failed
//! writes are held and retried (see [`Spool`]) without blocking the network side. The hash is also compared here
//! because, like decoding, that takes time.

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
        frame::Frame,
        guarded, h264,
        sink::{
            Claim, FrameRecord, FrameWriter, Outcome, PictureFormat, SinkError, Spool, Written,
        },
    },
    stats::Stages,
    types::Stage,
};

/// Capacity of the queue of access units.
const QUEUE: usize = 64;

/// Poll interval for new access units while failed writes are waiting to be retried.
const POLL: Duration = Duration::from_millis(20);

/// An access unit to decode and to write.
#[derive(Debug, Clone)]
pub struct Received {
    /// The access unit in Annex B format.
    pub data: Bytes,
    /// Everything known about it so far; size and picture come from the decoder, and the hash is computed here.
    pub record: FrameRecord,
    /// The hash announced by the sender, if any.
    pub announced_sha256: Option<String>,
    /// When its last packet arrived.
    pub completed: Instant,
    /// Whether it directly follows packets that were lost permanently.
    pub after_loss: bool,
}

/// An event of the store.
#[derive(Debug)]
pub enum StoreEvent {
    /// A keyframe is on disk.
    Written(Box<OnDisk>),
    /// A picture between keyframes was decoded, with its size and the decoding time; such pictures are not
    /// written.
    Passed((u32, u32), Duration),
    /// A picture between keyframes of an unsupported stream.
    Skipped,
    /// A picture between keyframes that cannot be decoded: a keyframe is needed.
    Broken(String),
    /// Writing keyframes fails: they are held and retried.
    Waiting(SessionError),
    /// All held keyframes are written.
    Recovered,
    /// A held keyframe was discarded.
    Dropped,
}

/// A keyframe on disk.
#[derive(Debug)]
pub struct OnDisk {
    /// Its files and its record.
    pub written: Written,
    /// When decoding succeeded or failed.
    pub decoded_at: Instant,
    /// Decoding time.
    pub decode_time: Duration,
    /// Durations of the stages from its last packet to the disk, in ms.
    pub stages: Stages<Option<f64>>,
    /// When it was completely written.
    pub written_at: SystemTime,
    /// Why it was not decoded, if it was not.
    pub undecoded: Option<String>,
    /// The decoder does not support this kind of stream: other keyframes of it would fail, too.
    pub unsupported: bool,
}

/// Handle of the thread.
#[derive(Debug)]
pub struct Store {
    input: mpsc::Sender<Received>,
    output: mpsc::UnboundedReceiver<StoreEvent>,
}

impl Store {
    /// Starts the thread, which checks the directory first.
    ///
    /// # Errors
    /// The directory cannot be created or written to, or the decoder cannot start.
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
                "raise the thread limit (ulimit -u)",
            )
        })?;
        ready.await.map_err(|_| stopped())??;
        Ok(Self { input, output })
    }

    /// Hands over an access unit; waits while the queue is full.
    pub async fn put(&self, received: Received) {
        // A stopped thread is reported by `next`.
        let _ = self.input.send(received).await;
    }

    /// The next event; `None` when the thread has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<StoreEvent> {
        self.output.recv().await
    }

    /// Waits until everything that was handed over is on disk; returns the remaining events.
    pub async fn finish(self) -> Vec<StoreEvent> {
        let Self { input, mut output } = self;
        drop(input);
        let mut left = Vec::new();
        while let Some(stored) = output.recv().await {
            left.push(stored);
        }
        left
    }
}

/// The error of a thread that stopped unexpectedly.
pub(super) fn stopped() -> SessionError {
    SessionError::new(
        Stage::Output,
        "thread-failed",
        "the writing thread has stopped",
        "run with -v for the details",
    )
}

fn open(dir: &Path, formats: &[PictureFormat]) -> Result<(FrameWriter, Decoder), SessionError> {
    let writer = FrameWriter::new(dir, formats).map_err(|error| {
        let remedy = match &error {
            SinkError::InUse { .. } => error.remedy(),
            _ => "check the path, its permissions and the free disk space".to_owned(),
        };
        sink_error(&error, remedy)
    })?;
    let decoder = Decoder::new().map_err(|error| {
        let remedy = "run with -v for the details";
        SessionError::new(Stage::Video, "decoder-failed", error.to_string(), remedy)
    })?;
    Ok((writer, decoder))
}

/// Locks the directory against other runs.
///
/// # Errors
/// Another run writes to it.
pub(super) fn claim(claim: &mut Claim) -> Result<(), SessionError> {
    claim.take().map_err(|error| sink_error(&error, error.remedy()))
}

fn sink_error(error: &SinkError, remedy: impl Into<String>) -> SessionError {
    SessionError::new(Stage::Output, "write-failed", error.to_string(), remedy)
}

fn run(
    writer: FrameWriter,
    decoder: Decoder,
    mut input: mpsc::Receiver<Received>,
    output: &mpsc::UnboundedSender<StoreEvent>,
) {
    let spool = Spool::new(writer);
    let mut storing =
        StoreWorker { decoder, spool, waiting: true, unsupported: false, failing: false, output };
    loop {
        match next(&mut input, storing.spool.due()) {
            Next::Received(received) => storing.take(*received),
            Next::Due => {}
            Next::Closed => break,
        }
        let worked = storing.spool.work(Instant::now());
        storing.report(worked);
        if output.is_closed() {
            return;
        }
    }
    let worked = storing.spool.finish();
    storing.report(worked);
}

enum Next {
    Received(Box<Received>),
    /// Held keyframes are due for a retry.
    Due,
    Closed,
}

/// Waits for an access unit, or until `due`.
fn next(input: &mut mpsc::Receiver<Received>, due: Option<Instant>) -> Next {
    let Some(due) = due else {
        return input.blocking_recv().map_or(Next::Closed, |one| Next::Received(Box::new(one)));
    };
    loop {
        match input.try_recv() {
            Ok(received) => return Next::Received(Box::new(received)),
            Err(mpsc::error::TryRecvError::Disconnected) => return Next::Closed,
            Err(mpsc::error::TryRecvError::Empty) if Instant::now() >= due => return Next::Due,
            Err(mpsc::error::TryRecvError::Empty) => thread::sleep(POLL),
        }
    }
}

/// Measurements of a keyframe while it waits for the disk.
#[derive(Debug)]
struct Measured {
    reassemble: Duration,
    decoded_at: Instant,
    decode_time: Duration,
    /// Time spent preparing the picture files.
    prepare_time: Duration,
    undecoded: Option<String>,
    unsupported: bool,
}

/// Why an access unit could not be decoded.
struct Undecoded {
    why: String,
    /// The cause applies to the whole stream.
    of_stream: bool,
}

struct StoreWorker<'o> {
    decoder: Decoder,
    spool: Spool<Measured>,
    /// After a loss only a keyframe can be decoded correctly.
    waiting: bool,
    /// The decoder does not support the stream of the last keyframe.
    unsupported: bool,
    /// Writing fails, and keyframes are held.
    failing: bool,
    output: &'o mpsc::UnboundedSender<StoreEvent>,
}

impl StoreWorker<'_> {
    fn take(&mut self, received: Received) {
        let keyframe = h264::is_keyframe(&received.data);
        if received.after_loss && !keyframe {
            self.waiting = true;
        }
        if keyframe {
            self.waiting = false;
            return self.keyframe(received);
        }
        let stored = if self.unsupported {
            // Already reported for the previous keyframe.
            StoreEvent::Skipped
        } else if self.waiting {
            StoreEvent::Broken("the picture depends on one that was lost".into())
        } else {
            let started = Instant::now();
            match self.decode(&received.data) {
                Ok(frame) => StoreEvent::Passed((frame.width, frame.height), started.elapsed()),
                Err(undecoded) => {
                    self.waiting = true;
                    StoreEvent::Broken(undecoded.why)
                }
            }
        };
        self.emit(stored);
    }

    fn keyframe(&mut self, received: Received) {
        let mut record = received.record;
        record.sha256 = sha256(&received.data);
        record.verified =
            received.announced_sha256.map(|sha256| sha256.eq_ignore_ascii_case(&record.sha256));
        let started = Instant::now();
        let reassemble = started.saturating_duration_since(received.completed);
        let decoded = self.decode(&received.data);
        let decoded_at = Instant::now();
        let decode_time = decoded_at - started;
        if let Ok(frame) = &decoded {
            (record.width, record.height) = (frame.width, frame.height);
        } else if let Some((width, height)) = h264::dimensions(&received.data) {
            (record.width, record.height) = (width, height);
        }
        let started = Instant::now();
        let prepared = self.spool.writer().prepare(&received.data, decoded.as_ref().ok(), record);
        let undecoded = decoded.err();
        self.unsupported = undecoded.as_ref().is_some_and(|undecoded| undecoded.of_stream);
        let measured = Measured {
            reassemble,
            decoded_at,
            decode_time,
            prepare_time: started.elapsed(),
            undecoded: undecoded.map(|undecoded| undecoded.why),
            unsupported: self.unsupported,
        };
        self.spool.put(prepared, measured);
    }

    /// Decodes an access unit; a panic is an error and replaces the decoder.
    fn decode(&mut self, access_unit: &[u8]) -> Result<Frame, Undecoded> {
        match guarded(|| self.decoder.decode(access_unit)) {
            Ok(decoded) => decoded.map_err(|error| Undecoded {
                why: error.to_string(),
                of_stream: error.is_of_stream(),
            }),
            Err(panic) => {
                if let Ok(fresh) = Decoder::new() {
                    self.decoder = fresh;
                }
                Err(Undecoded { why: panic, of_stream: false })
            }
        }
    }

    /// Reports the results of the spool.
    fn report(&mut self, (outcomes, failed): (Vec<Outcome<Measured>>, Option<SinkError>)) {
        for outcome in outcomes {
            let stored = match outcome {
                Outcome::Written(written, took, measured) => on_disk(*written, took, measured),
                Outcome::Dropped(_) => StoreEvent::Dropped,
            };
            self.emit(stored);
        }
        if let Some(error) = failed {
            self.failing = true;
            self.emit(StoreEvent::Waiting(sink_error(&error, error.remedy())));
        } else if self.failing && self.spool.due().is_none() {
            self.failing = false;
            self.emit(StoreEvent::Recovered);
        }
    }

    fn emit(&self, stored: StoreEvent) {
        // Fails only when the receiver is gone, which ends the loop.
        let _ = self.output.send(stored);
    }
}

fn on_disk(written: Written, took: Duration, measured: Measured) -> StoreEvent {
    let Measured { reassemble, decoded_at, decode_time, prepare_time, undecoded, unsupported } =
        measured;
    let write_time = prepare_time + took;
    let stages = Stages {
        reassemble: Some(millis(reassemble)),
        decode: Some(millis(decode_time)),
        write: Some(millis(write_time)),
        ..Stages::default()
    };
    let undecoded = undecoded.or_else(|| written.unmade.clone());
    StoreEvent::Written(Box::new(OnDisk {
        written,
        decoded_at,
        decode_time,
        stages,
        written_at: SystemTime::now(),
        undecoded,
        unsupported,
    }))
}
