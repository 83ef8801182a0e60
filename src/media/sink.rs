//! The sink: keyframes, their pictures and a line about each, in a directory.
//!
//! `DIR/000001.h264` is the access unit byte for byte, beside it the picture; `DIR/frames.jsonl` has one
//! line a keyframe. A file appears under its name only when it is complete and on the disk. A new run
//! goes on counting where the last one stopped, so nothing is ever overwritten.

mod atomic;
mod error;
mod journal;
mod picture;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use error::SinkError;
pub use picture::PictureFormat;

use self::journal::Journal;
use super::frame::Frame;

/// Name of the file with a line a keyframe.
pub const JOURNAL: &str = "frames.jsonl";

/// What is known about one keyframe: a line of `frames.jsonl`. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrameRecord {
    /// Number of the keyframe; set by the writer.
    pub seq: u64,
    /// Name of its file in the directory; set by the writer.
    pub file: String,
    /// Bytes of the access unit; set by the writer.
    pub bytes: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// RTP timestamp, 90 kHz.
    pub rtp_timestamp: u32,
    /// When the sender captured it, by the sender's clock, if it said so.
    pub capture_time: Option<f64>,
    /// When it was complete here.
    pub received_at: f64,
    /// From capture to complete, in milliseconds, with the difference of the clocks taken out when that is
    /// known.
    pub latency_ms: Option<f64>,
    /// The sender's clock less ours, in milliseconds, if its answers to pings tell.
    pub clock_offset_ms: Option<f64>,
    /// RTP packets it came in.
    pub packets: u32,
    /// How many of them came by retransmission.
    pub retransmitted: u32,
    /// SHA-256 of the access unit, in hexadecimal.
    pub sha256: String,
    /// Whether the hash is the one the sender told, if it told one.
    pub verified: Option<bool>,
    /// Type of the local candidate it came through, if known.
    pub candidate_type: Option<String>,
    /// How the peers were connected, judged from both ends, if known.
    pub connection_type: Option<String>,
}

/// What was written for one keyframe.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The files, complete.
    pub files: Vec<PathBuf>,
    /// The line, with what the writer set in it.
    pub record: FrameRecord,
}

/// Writes keyframes into a directory.
#[derive(Debug)]
pub struct FrameWriter {
    dir: PathBuf,
    formats: Vec<PictureFormat>,
    next: u64,
    journal: Journal,
}

impl FrameWriter {
    /// Makes the directory if need be, finds out that it can be written to, and where its numbers end.
    ///
    /// # Errors
    /// It cannot be made, read or written to.
    pub fn new(dir: &Path, formats: &[PictureFormat]) -> Result<Self, SinkError> {
        std::fs::create_dir_all(dir)
            .map_err(|cause| SinkError::CreateDirectory { path: dir.to_owned(), cause })?;
        atomic::check_writable(dir)?;
        let journal = Journal::open(&dir.join(JOURNAL))?;
        let last = highest_number(dir)?.max(journal.last_seq());
        let mut formats = formats.to_vec();
        formats.sort_unstable();
        formats.dedup();
        Ok(Self { dir: dir.to_owned(), formats, next: last + 1, journal })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number the next keyframe gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Writes a keyframe, its picture if it could be decoded, and its line. Without a picture the
    /// access unit is written even when only pictures were asked for. `seq`, `file` and `bytes` of the
    /// line are set here.
    ///
    /// # Errors
    /// Something could not be written; files that were are complete, and stay.
    pub fn write(
        &mut self,
        access_unit: &[u8],
        picture: Option<&Frame>,
        line: FrameRecord,
    ) -> Result<Written, SinkError> {
        let seq = self.next;
        // A number is used once, even when writing fails halfway.
        self.next += 1;
        let path =
            |format: PictureFormat| self.dir.join(format!("{seq:06}.{}", format.extension()));
        let mut files = Vec::new();
        let raw = PictureFormat::H264;
        if self.formats.contains(&raw) || picture.is_none() {
            files.push(path(raw));
            atomic::write(&path(raw), |file| std::io::Write::write_all(file, access_unit))?;
        }
        if let Some(frame) = picture {
            for format in self.formats.iter().filter(|format| **format != raw) {
                let path = path(*format);
                let data = picture::encode(*format, frame)
                    .map_err(|cause| SinkError::Encode { path: path.clone(), cause })?;
                atomic::write(&path, |file| std::io::Write::write_all(file, &data))?;
                files.push(path);
            }
        }
        let named = files.first().and_then(|file| file.file_name());
        let file = named.unwrap_or_default().to_string_lossy().into_owned();
        let record = FrameRecord { seq, file, bytes: access_unit.len(), ..line };
        atomic::sync_directory(&self.dir)?;
        self.journal.append(&record)?;
        Ok(Written { files, record })
    }
}

/// The highest number of a file named like ours, or 0.
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
