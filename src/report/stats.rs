//! `--stats DIR`: statistics as JSON Lines.
//!
//! - `stats.jsonl`: statistics reports, one per line, with W3C webrtc-stats names. A line is
//!   `{"time": MS, "report": {ID: {…}}}`; `time` counts milliseconds since 1970 like the `timestamp` of
//!   a stats object.
//! - `keyframes.jsonl`: one line per keyframe, with the `time` when it was sent or was on disk, and `stagesMs`, the
//!   duration of each of its stages (see [`crate::stats::Stages`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

/// Maximum number of runs with a file in one directory.
const MAX_RUNS: u32 = 100_000;

/// An error while writing statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The directory or a new file in it cannot be created.
    #[error("cannot create a statistics file in `{dir}`: {source}")]
    Create {
        /// Path of the directory.
        dir: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// A line cannot be written.
    #[error("cannot write statistics to `{path}`: {source}")]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
}

/// Appends lines to a file of this run, each entirely or not at all.
#[derive(Debug)]
pub struct StatsWriter {
    path: PathBuf,
    file: File,
    /// Offset of the next line, bytes.
    end: u64,
    /// Part of a failed line may follow `end`.
    torn: bool,
}

#[derive(Serialize)]
struct Line<'r, R> {
    time: f64,
    report: &'r R,
}

#[derive(Serialize)]
struct Timed<'r, R> {
    time: f64,
    #[serde(flatten)]
    fields: &'r R,
}

impl StatsWriter {
    /// Creates the directory if needed and a new file for statistics reports in it: `stats.jsonl`, or `stats-2.jsonl`
    /// and so on if files of earlier runs or of another process already exist.
    ///
    /// # Errors
    /// [`StatsError::Create`].
    pub fn create(dir: &Path) -> Result<Self, StatsError> {
        Self::named(dir, "stats")
    }

    /// Like [`Self::create`], for keyframes: `keyframes.jsonl`.
    ///
    /// # Errors
    /// [`StatsError::Create`].
    pub fn of_keyframes(dir: &Path) -> Result<Self, StatsError> {
        Self::named(dir, "keyframes")
    }

    fn named(dir: &Path, stem: &str) -> Result<Self, StatsError> {
        let failed = |source| StatsError::Create { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        for run in 1..=MAX_RUNS {
            let name =
                if run == 1 { format!("{stem}.jsonl") } else { format!("{stem}-{run}.jsonl") };
            let path = dir.join(name);
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { path, file, end: 0, torn: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "too many statistics files in the directory",
        )))
    }

    /// The file of this run.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the report taken at `time`: an object of stats objects by their id.
    ///
    /// # Errors
    /// [`StatsError::Write`].
    pub fn write(&mut self, time: SystemTime, report: &impl Serialize) -> Result<(), StatsError> {
        self.line(&Line { time: millis(time), report })
    }

    /// Writes the record of a keyframe at `time`: an object.
    ///
    /// # Errors
    /// [`StatsError::Write`].
    pub fn keyframe(
        &mut self,
        time: SystemTime,
        fields: &impl Serialize,
    ) -> Result<(), StatsError> {
        self.line(&Timed { time: millis(time), fields })
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), StatsError> {
        let failed = |source| StatsError::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        if self.torn {
            self.file.set_len(self.end).map_err(failed)?;
            self.torn = false;
        }
        match self.file.write_all(&line) {
            Ok(()) => self.end += line.len() as u64,
            Err(error) => {
                // Half a line would corrupt the next one.
                self.torn = self.file.set_len(self.end).is_err();
                return Err(failed(error));
            }
        }
        Ok(())
    }
}

/// Milliseconds since 1970, with fractions: W3C `DOMHighResTimeStamp` on the wall clock.
pub(super) fn millis(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn one_line_per_report_and_one_file_per_run() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/one");
        let mut first = StatsWriter::create(&dir).unwrap();
        let second = StatsWriter::create(&dir).unwrap();
        assert_eq!(second.path(), dir.join("stats-2.jsonl"));
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        first.write(at(1_500), &json!({"T1": {"type": "transport"}})).unwrap();
        // Readable immediately, during the run.
        assert_eq!(fs::read_to_string(first.path()).unwrap().lines().count(), 1);
        first.write(at(2_500), &json!({})).unwrap();
        let text = fs::read_to_string(first.path()).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0], json!({"time": 1500.0, "report": {"T1": {"type": "transport"}}}));
        assert_eq!(lines[1], json!({"time": 2500.0, "report": {}}));
        let mut keyframes = StatsWriter::of_keyframes(&dir).unwrap();
        keyframes.keyframe(at(1_500), &json!({"seq": 1, "stagesMs": {"encode": 30.5}})).unwrap();
        let text = fs::read_to_string(dir.join("keyframes.jsonl")).unwrap();
        assert_eq!(text, "{\"time\":1500.0,\"seq\":1,\"stagesMs\":{\"encode\":30.5}}\n");
    }

    #[test]
    fn a_failed_line_leaves_no_fragment() {
        let dir = tempfile::tempdir().unwrap();
        let mut stats = StatsWriter::create(dir.path()).unwrap();
        stats.write(UNIX_EPOCH, &json!({"a": 1})).unwrap();
        // Like a disk that accepted part of a line and could not undo it.
        let readable = File::open(stats.path()).unwrap();
        let writable = std::mem::replace(&mut stats.file, readable);
        assert!(stats.write(UNIX_EPOCH, &json!({"b": 2})).is_err() && stats.torn);
        stats.file = writable;
        stats.file.write_all(b"{\"time\":0,\"rep").unwrap();
        stats.write(UNIX_EPOCH, &json!({"c": 3})).unwrap();
        let text = fs::read_to_string(stats.path()).unwrap();
        assert_eq!(
            text,
            "{\"time\":0.0,\"report\":{\"a\":1}}\n{\"time\":0.0,\"report\":{\"c\":3}}\n"
        );
    }

    #[test]
    fn the_error_names_an_uncreatable_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StatsWriter::create(&file.path().join("below")).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }
}
