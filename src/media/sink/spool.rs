//! Writes keyframes to disk in order, and holds those that cannot be written yet.
//!
//! A disk that is full (ENOSPC, EDQUOT), read-only (EROFS) or failing (EIO), and a process without file
//! descriptors (EMFILE, ENFILE) may recover, so no write error ends the run. The keyframe is retried with
//! a growing pause, the keyframes after it wait in a bounded queue, and the oldest are dropped when the
//! queue is full.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{FrameWriter, Prepared, SinkError, Written};

/// Maximum number of waiting keyframes.
pub const MAX_WAITING: usize = 256;

/// Maximum total size of all waiting keyframes in bytes, including pictures.
const MAX_BYTES: usize = 64 << 20;

/// Pauses between two attempts: minimum and maximum.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Outcome of a keyframe; `T` is the data passed with it.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is on disk; carries the duration of the successful attempt.
    Written(Box<Written>, Duration, T),
    /// It waited, and was dropped for newer ones or at the end.
    Dropped(T),
}

/// Writes keyframes and holds those that cannot be written yet.
#[derive(Debug)]
pub struct Spool<T> {
    writer: FrameWriter,
    waiting: VecDeque<(Prepared, T)>,
    bytes: usize,
    /// When to retry after a failure.
    retry_at: Option<Instant>,
    pause: Duration,
}

impl<T> Spool<T> {
    /// Creates a spool in which no keyframe is waiting.
    #[must_use]
    pub fn new(writer: FrameWriter) -> Self {
        Self { writer, waiting: VecDeque::new(), bytes: 0, retry_at: None, pause: PAUSES.0 }
    }

    /// The writer, which prepares keyframes.
    #[must_use]
    pub fn writer(&self) -> &FrameWriter {
        &self.writer
    }

    /// When [`Spool::work`] is due for a retry; `None` when no keyframe is waiting.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.waiting.is_empty())
    }

    /// Adds a keyframe to the end of the queue, to be written by [`Spool::work`].
    pub fn put(&mut self, prepared: Prepared, with: T) {
        self.bytes += prepared.len();
        self.waiting.push_back((prepared, with));
    }

    /// Writes the waiting keyframes in order, unless the pause after a failure has not elapsed at `now`.
    /// Returns the outcomes, and the error if the rest has to wait.
    pub fn work(&mut self, now: Instant) -> (Vec<Outcome<T>>, Option<SinkError>) {
        let mut outcomes = Vec::new();
        let mut failed = None;
        if self.retry_at.is_none_or(|at| now >= at) {
            failed = self.write_all(&mut outcomes);
            self.retry_at = failed.as_ref().map(|_| now + self.pause);
            self.pause = if failed.is_some() { (self.pause * 2).min(PAUSES.1) } else { PAUSES.0 };
        }
        // The newest keyframe is always kept.
        while self.waiting.len() > 1 && (self.waiting.len() > MAX_WAITING || self.bytes > MAX_BYTES)
        {
            outcomes.extend(self.next().map(|(_, with)| Outcome::Dropped(with)));
        }
        (outcomes, failed)
    }

    /// Makes a last attempt without a pause; keyframes that still cannot be written are dropped.
    pub fn finish(&mut self) -> (Vec<Outcome<T>>, Option<SinkError>) {
        let mut outcomes = Vec::new();
        let failed = self.write_all(&mut outcomes);
        while let Some((_, with)) = self.next() {
            outcomes.push(Outcome::Dropped(with));
        }
        (outcomes, failed)
    }

    fn write_all(&mut self, outcomes: &mut Vec<Outcome<T>>) -> Option<SinkError> {
        while let Some((prepared, _)) = self.waiting.front() {
            let started = Instant::now();
            match self.writer.commit(prepared) {
                Ok(written) => {
                    let took = started.elapsed();
                    let next = self.next();
                    outcomes.extend(
                        next.map(|(_, with)| Outcome::Written(Box::new(written), took, with)),
                    );
                }
                Err(error) => return Some(error),
            }
        }
        None
    }

    fn next(&mut self) -> Option<(Prepared, T)> {
        let next = self.waiting.pop_front()?;
        self.bytes -= next.0.len();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytes::Bytes;

    use super::*;
    use crate::media::sink::{FrameRecord, PictureFormat};

    fn put(spool: &mut Spool<u64>, number: u64, bytes: usize) {
        let data = Bytes::from(vec![number as u8; bytes]);
        let prepared = spool.writer().prepare(&data, None, FrameRecord::default());
        spool.put(prepared, number);
    }

    fn spool(dir: &Path) -> Spool<u64> {
        Spool::new(FrameWriter::new(dir, &[PictureFormat::H264]).unwrap())
    }

    /// The number of each keyframe, and its number on disk; `None` for a dropped one.
    fn numbers(outcomes: &[Outcome<u64>]) -> Vec<(u64, Option<u64>)> {
        let number = |outcome: &Outcome<u64>| match outcome {
            Outcome::Written(written, _, with) => (*with, Some(written.record.seq)),
            Outcome::Dropped(with) => (*with, None),
        };
        outcomes.iter().map(number).collect()
    }

    #[test]
    fn keyframes_that_cannot_be_written_wait_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("frames");
        let (mut spool, now) = (spool(&out), Instant::now());
        put(&mut spool, 1, 10);
        assert_eq!(numbers(&spool.work(now).0), [(1, Some(1))]);
        assert_eq!(spool.due(), None);
        // Like a disk that is temporarily unavailable.
        fs::rename(&out, dir.path().join("away")).unwrap();
        put(&mut spool, 2, 10);
        let (outcomes, failed) = spool.work(now);
        assert!(outcomes.is_empty());
        assert!(failed.unwrap().to_string().contains("frames"));
        let due = spool.due().unwrap();
        assert_eq!(due, now + PAUSES.0);
        put(&mut spool, 3, 10);
        fs::rename(dir.path().join("away"), &out).unwrap();
        let (outcomes, failed) = spool.work(now);
        assert!(outcomes.is_empty() && failed.is_none(), "the pause has not elapsed");
        assert_eq!(numbers(&spool.work(due).0), [(2, Some(2)), (3, Some(3))]);
        let journal = fs::read_to_string(out.join("frames.jsonl")).unwrap();
        assert_eq!(journal.lines().count(), 3);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
    }

    #[test]
    fn the_queue_is_bounded_and_drops_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("frames");
        let (mut spool, mut now) = (spool(&out), Instant::now());
        fs::remove_dir_all(&out).unwrap();
        let mut dropped = Vec::new();
        for number in 0..MAX_WAITING as u64 + 10 {
            put(&mut spool, number, 10);
            dropped.extend(numbers(&spool.work(now).0));
            now += PAUSES.1;
        }
        assert_eq!(dropped, (0..10).map(|number| (number, None)).collect::<Vec<_>>());
        put(&mut spool, 1_000, MAX_BYTES);
        dropped = numbers(&spool.work(now).0);
        assert_eq!(dropped.len(), MAX_WAITING, "the newest is kept, however large it is");
        let (outcomes, failed) = spool.finish();
        assert_eq!(numbers(&outcomes), [(1_000, None)]);
        assert!(failed.is_some());
    }

    #[test]
    fn a_number_that_is_in_use_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, mut now) = (spool(dir.path()), Instant::now());
        fs::write(dir.path().join("000001.h264"), b"of another program").unwrap();
        put(&mut spool, 1, 10);
        assert!(spool.work(now).1.is_some());
        now += PAUSES.0;
        assert_eq!(numbers(&spool.work(now).0), [(1, Some(2))]);
        assert_eq!(fs::read(dir.path().join("000001.h264")).unwrap(), b"of another program");
    }
}
