//! Keyframes on their way to the disk: written in order, and kept while they cannot be.
//!
//! A disk that is full (ENOSPC, EDQUOT), read only (EROFS) or fails (EIO), and a process without file
//! descriptors (EMFILE, ENFILE) may recover, so no error of one keyframe ends anything: it is tried again
//! with a growing pause, the keyframes after it wait in a bounded queue, and the oldest are dropped when
//! the queue is full.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{FrameWriter, Prepared, SinkError, Written};

/// Most keyframes that wait.
pub const MOST_WAITING: usize = 256;

/// Most bytes of all that wait, pictures included.
const MOST_BYTES: usize = 64 << 20;

/// Pauses between two tries: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What became of a keyframe; `T` is what came with it.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is on the disk, after this long a try.
    Written(Box<Written>, Duration, T),
    /// It waited, and was given up for newer ones or at the end.
    Dropped(T),
}

/// Writes keyframes and keeps those that cannot be written now.
#[derive(Debug)]
pub struct Spool<T> {
    writer: FrameWriter,
    waiting: VecDeque<(Prepared, T)>,
    bytes: usize,
    /// When to try again, after a failure.
    retry_at: Option<Instant>,
    pause: Duration,
}

impl<T> Spool<T> {
    /// Nothing waits.
    #[must_use]
    pub fn new(writer: FrameWriter) -> Self {
        Self { writer, waiting: VecDeque::new(), bytes: 0, retry_at: None, pause: PAUSES.0 }
    }

    /// Makes the files.
    #[must_use]
    pub fn writer(&self) -> &FrameWriter {
        &self.writer
    }

    /// When [`Spool::work`] has something to do; none when nothing waits.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.waiting.is_empty())
    }

    /// Adds a keyframe behind all that wait, to be written by [`Spool::work`].
    pub fn put(&mut self, prepared: Prepared, with: T) {
        self.bytes += prepared.len();
        self.waiting.push_back((prepared, with));
    }

    /// Writes what waits, in order, unless the pause after a failure is not over at `now`. Gives what
    /// became of keyframes, and why the rest of them has to wait.
    pub fn work(&mut self, now: Instant) -> (Vec<Outcome<T>>, Option<SinkError>) {
        let mut outcomes = Vec::new();
        let mut failed = None;
        if self.retry_at.is_none_or(|at| now >= at) {
            failed = self.write_all(&mut outcomes);
            self.retry_at = failed.as_ref().map(|_| now + self.pause);
            self.pause = if failed.is_some() { (self.pause * 2).min(PAUSES.1) } else { PAUSES.0 };
        }
        // One always stays: the newest.
        while self.waiting.len() > 1
            && (self.waiting.len() > MOST_WAITING || self.bytes > MOST_BYTES)
        {
            outcomes.extend(self.next().map(|(_, with)| Outcome::Dropped(with)));
        }
        (outcomes, failed)
    }

    /// Tries a last time, without a pause; what still cannot be written is dropped.
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

    /// Number of each keyframe, and its number on the disk; none for a dropped one.
    fn numbers(outcomes: &[Outcome<u64>]) -> Vec<(u64, Option<u64>)> {
        let number = |outcome: &Outcome<u64>| match outcome {
            Outcome::Written(written, _, with) => (*with, Some(written.record.seq)),
            Outcome::Dropped(with) => (*with, None),
        };
        outcomes.iter().map(number).collect()
    }

    #[test]
    fn what_cannot_be_written_waits_and_keeps_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("frames");
        let (mut spool, now) = (spool(&out), Instant::now());
        put(&mut spool, 1, 10);
        assert_eq!(numbers(&spool.work(now).0), [(1, Some(1))]);
        assert_eq!(spool.due(), None);
        // As a disk that is gone for a while.
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
        assert!(outcomes.is_empty() && failed.is_none(), "not before its time");
        assert_eq!(numbers(&spool.work(due).0), [(2, Some(2)), (3, Some(3))]);
        let journal = fs::read_to_string(out.join("frames.jsonl")).unwrap();
        assert_eq!(journal.lines().count(), 3);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
    }

    #[test]
    fn the_queue_is_bounded_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("frames");
        let (mut spool, mut now) = (spool(&out), Instant::now());
        fs::remove_dir_all(&out).unwrap();
        let mut dropped = Vec::new();
        for number in 0..MOST_WAITING as u64 + 10 {
            put(&mut spool, number, 10);
            dropped.extend(numbers(&spool.work(now).0));
            now += PAUSES.1;
        }
        assert_eq!(dropped, (0..10).map(|number| (number, None)).collect::<Vec<_>>());
        put(&mut spool, 1_000, MOST_BYTES);
        dropped = numbers(&spool.work(now).0);
        assert_eq!(dropped.len(), MOST_WAITING, "the newest stays, however large");
        let (outcomes, failed) = spool.finish();
        assert_eq!(numbers(&outcomes), [(1_000, None)]);
        assert!(failed.is_some());
    }

    #[test]
    fn a_number_that_is_taken_is_passed_over() {
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
