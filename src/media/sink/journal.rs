//! `frames.jsonl`: one JSON object per line, appended completely or not at all.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{FrameRecord, SinkError};

/// Number of bytes at the end of the file that are searched for the last number.
const TAIL: u64 = 64 << 10;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next line begins.
    end: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Journal {
    /// Opens or creates the file. If a crash left the last line incomplete, ends that line, so that
    /// the next one is separate.
    pub(super) fn open(path: &Path) -> Result<Self, SinkError> {
        let wrong = |cause| SinkError::Write { path: path.to_owned(), cause };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = file.map_err(wrong)?;
        let mut end = file.metadata().map_err(wrong)?.len();
        let tail = read_tail(&mut file, end)
            .map_err(|cause| SinkError::Read { path: path.to_owned(), cause })?;
        if tail.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n").map_err(wrong)?;
            end += 1;
        }
        let lines = tail.split(|byte| *byte == b'\n');
        let numbers = lines.filter_map(|line| serde_json::from_slice::<Numbered>(line).ok());
        let last_seq = numbers.map(|line| line.seq).max().unwrap_or(0);
        Ok(Self { path: path.to_owned(), file, end, last_seq })
    }

    /// The highest number in the last lines, or 0.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Appends a line and syncs it to disk; after a failure the file is unchanged.
    pub(super) fn append(&mut self, record: &FrameRecord) -> Result<(), SinkError> {
        let line = serde_json::to_vec(record).map_err(io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)?;
            self.file.sync_data()?;
            Ok(line.len() as u64)
        });
        match line {
            Ok(length) => self.end += length,
            Err(cause) => {
                // Best effort: half a line would corrupt the next one.
                let _ = self.file.set_len(self.end);
                return Err(SinkError::Write { path: self.path.clone(), cause });
            }
        }
        Ok(())
    }
}

fn read_tail(file: &mut File, end: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}
