//! The sink: writes keyframes, their pictures and one line about each to a directory.
//!
//! `DIR/000001.h264` is the access unit byte for byte, and the picture is next to it; `DIR/frames.jsonl` has
//! one line per keyframe. A file appears under its name only when it is completely on disk. A new run continues
//! the numbering of the last one, so nothing is ever overwritten. Keyframes that cannot be written, because the
//! disk is full or there are no file descriptors left, are held and retried by the [`Spool`].

mod atomic;
mod error;
mod journal;
mod lock;
mod picture;
mod spool;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use atomic::create_beside;
pub use error::SinkError;
pub use lock::Claim;
pub use picture::PictureFormat;
pub use spool::{Outcome, Spool};

use self::journal::Journal;
use super::{colour::Colour, frame::Frame, guarded};

/// Name of the file with one line per keyframe.
pub const JOURNAL: &str = "frames.jsonl";

/// Record of one keyframe: a line of `frames.jsonl`. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrameRecord {
    /// Number of the keyframe; set by the writer.
    pub seq: u64,
    /// Name of its file in the directory; set by the writer.
    pub file: String,
    /// Size of the access unit in bytes; set by the writer.
    pub bytes: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// RTP timestamp, 90 kHz.
    pub rtp_timestamp: u32,
    /// When it was captured, by the sender's clock, if the sender reported it.
    pub capture_time: Option<f64>,
    /// When it was received completely.
    pub received_at: f64,
    /// Time from capture to complete reception, in milliseconds, corrected for the clock offset if it is known.
    pub latency_ms: Option<f64>,
    /// The sender's clock minus ours, in milliseconds, if known from its answers to pings.
    pub clock_offset_ms: Option<f64>,
    /// Number of its RTP packets.
    pub packets: u32,
    /// Number of those packets that were retransmitted.
    pub retransmitted: u32,
    /// SHA-256 of the access unit, in hexadecimal.
    pub sha256: String,
    /// Whether the hash equals the one the sender announced, if it announced one.
    pub verified: Option<bool>,
    /// Type of the local candidate it was received on, if known.
    pub candidate_type: Option<String>,
    /// Type of the connection, taking both peers' candidates into account, if known.
    pub connection_type: Option<String>,
}

/// The files and the record written for one keyframe.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The files, which are complete.
    pub files: Vec<PathBuf>,
    /// The line, including the fields set by the writer.
    pub record: FrameRecord,
    /// Why a requested picture is missing from the files, if one is.
    pub unmade: Option<String>,
    /// Colors of its picture; `None` when it could not be decoded.
    pub colour: Option<Colour>,
}

/// A keyframe ready to be written: the contents of all its files exist, but none is on disk yet.
#[derive(Debug, Clone)]
pub struct Prepared {
    files: Vec<(PictureFormat, Bytes)>,
    record: FrameRecord,
    unmade: Option<String>,
    colour: Option<Colour>,
}

impl Prepared {
    /// Total size of its files in bytes.
    fn len(&self) -> usize {
        self.files.iter().map(|(_, data)| data.len()).sum()
    }
}

/// Removes the directory of a run that wrote nothing: it is empty or has only an empty journal. A directory
/// with anything else in it is kept.
pub fn discard_empty(dir: &Path) {
    let journal = dir.join(JOURNAL);
    let is_empty = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.len() == 0);
    let only_journal = std::fs::read_dir(dir)
        .is_ok_and(|mut found| found.all(|one| one.is_ok_and(|one| one.path() == journal)));
    if only_journal && (is_empty(&journal) || !journal.exists()) {
        // Files that another process creates in the meantime are safe: only an empty directory can be removed.
        let _ = std::fs::remove_file(&journal);
        let _ = std::fs::remove_dir(dir);
    }
}

/// Writes keyframes into a directory.
#[derive(Debug)]
pub struct FrameWriter {
    dir: PathBuf,
    formats: Vec<PictureFormat>,
    next: u64,
    /// `None` after a failure, which may have left half a line; it is reopened for the next keyframe.
    journal: Option<Journal>,
}

impl FrameWriter {
    /// Creates the directory if it does not exist, checks that it is writable, and finds its last number.
    ///
    /// # Errors
    /// The directory cannot be created, read or written to, or another run is writing to it.
    pub fn new(dir: &Path, formats: &[PictureFormat]) -> Result<Self, SinkError> {
        std::fs::create_dir_all(dir)
            .map_err(|cause| SinkError::CreateDirectory { path: dir.to_owned(), cause })?;
        lock::check_free(dir)?;
        atomic::check_writable(dir)?;
        let journal = Journal::open(&dir.join(JOURNAL))?;
        let last = highest_number(dir)?.max(journal.last_seq());
        let mut formats = formats.to_vec();
        formats.sort_unstable();
        formats.dedup();
        Ok(Self { dir: dir.to_owned(), formats, next: last + 1, journal: Some(journal) })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of the next keyframe.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Creates the contents of a keyframe's files: its picture if it could be decoded, and the access unit if
    /// it was requested or there is no picture. `seq`, `file` and `bytes` of the line are set here and when it
    /// is written.
    #[must_use]
    pub fn prepare(
        &self,
        access_unit: &Bytes,
        picture: Option<&Frame>,
        line: FrameRecord,
    ) -> Prepared {
        let raw = PictureFormat::H264;
        let (mut files, mut unmade) = (Vec::new(), None);
        if let Some(frame) = picture {
            for format in self.formats.iter().filter(|format| **format != raw) {
                let made = guarded(|| picture::encode(*format, frame)).and_then(|made| made);
                match made {
                    Ok(data) => files.push((*format, Bytes::from(data))),
                    Err(cause) => {
                        unmade = Some(format!("cannot create the {format} picture: {cause}"));
                    }
                }
            }
        }
        if self.formats.contains(&raw) || files.is_empty() {
            files.insert(0, (raw, access_unit.clone()));
        }
        let record = FrameRecord { bytes: access_unit.len(), ..line };
        Prepared { files, record, unmade, colour: picture.map(|frame| frame.colour) }
    }

    /// Writes a prepared keyframe: all of its files and its line, or nothing. Only a keyframe that is on disk
    /// uses up a number.
    ///
    /// # Errors
    /// Something could not be written; the keyframe may be retried.
    pub fn commit(&mut self, prepared: &Prepared) -> Result<Written, SinkError> {
        let seq = self.next;
        let paths: Vec<PathBuf> =
            prepared.files.iter().map(|(format, _)| self.path(seq, *format)).collect();
        let mut written = 0;
        match self.put(seq, prepared, &paths, &mut written) {
            Ok(record) => {
                self.next = seq + 1;
                let (unmade, colour) = (prepared.unmade.clone(), prepared.colour);
                Ok(Written { files: paths, record, unmade, colour })
            }
            Err(error) => {
                self.journal = None;
                for path in &paths[..written] {
                    // Best effort: a file that stays keeps its number, see below.
                    let _ = std::fs::remove_file(path);
                }
                if paths.iter().any(|path| path.exists()) {
                    self.next = seq + 1;
                }
                Err(error)
            }
        }
    }

    /// The steps of [`FrameWriter::commit`]; `written` counts the files already written.
    fn put(
        &mut self,
        seq: u64,
        prepared: &Prepared,
        paths: &[PathBuf],
        written: &mut usize,
    ) -> Result<FrameRecord, SinkError> {
        let journal = match &mut self.journal {
            Some(journal) => journal,
            lost => {
                let journal = Journal::open(&self.dir.join(JOURNAL))?;
                // The journal may have a line that could not be removed.
                self.next = self.next.max(journal.last_seq() + 1);
                if self.next > seq {
                    let path = self.dir.join(JOURNAL);
                    let cause = std::io::Error::other(format!("it already has a line {seq}"));
                    return Err(SinkError::Write { path, cause });
                }
                lost.insert(journal)
            }
        };
        for (path, (_, data)) in paths.iter().zip(&prepared.files) {
            atomic::write(path, |file| std::io::Write::write_all(file, data))?;
            *written += 1;
        }
        let named = paths.first().and_then(|file| file.file_name());
        let file = named.unwrap_or_default().to_string_lossy().into_owned();
        let record = FrameRecord { seq, file, ..prepared.record.clone() };
        atomic::sync_directory(&self.dir)?;
        journal.append(&record)?;
        Ok(record)
    }

    /// Prepares and writes a keyframe in one step.
    ///
    /// # Errors
    /// See [`FrameWriter::commit`].
    pub fn write(
        &mut self,
        access_unit: &[u8],
        picture: Option<&Frame>,
        line: FrameRecord,
    ) -> Result<Written, SinkError> {
        let prepared = self.prepare(&Bytes::copy_from_slice(access_unit), picture, line);
        self.commit(&prepared)
    }

    fn path(&self, seq: u64, format: PictureFormat) -> PathBuf {
        self.dir.join(format!("{seq:06}.{}", format.extension()))
    }
}

/// The highest number in the names of keyframe files, or 0.
fn highest_number(dir: &Path) -> Result<u64, SinkError> {
    let wrong = |cause| SinkError::Read { path: dir.to_owned(), cause };
    let mut highest = 0;
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name();
        let number = name.to_str().and_then(|name| {
            let (stem, extension) = name.split_once('.')?;
            let digits = stem.len() >= 6 && stem.bytes().all(|byte| byte.is_ascii_digit());
            PictureFormat::of_extension(extension).filter(|_| digits)?;
            stem.parse().ok()
        });
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}
