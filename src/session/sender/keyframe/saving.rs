//! `--save`: writes sent keyframes to disk, off the async threads. A failed write is retried with the next
//! keyframe.

use std::path::PathBuf;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    media::sink::{Claim, FrameRecord, FrameWriter, Outcome, PictureFormat, SinkError, Spool},
    session::{SessionError, outage::Outage},
    types::Stage,
};

/// Result of [`Spool::work`].
type Worked = (Vec<Outcome<u64>>, Option<SinkError>);

/// The directory of `--save`.
pub(in crate::session::sender) struct Saving {
    /// `None` while a thread is using it.
    spool: Option<Spool<u64>>,
    claim: Claim,
    outage: Outage,
    dropped: u64,
}

impl Saving {
    /// Opens the directory.
    pub(in crate::session::sender) async fn start(dir: PathBuf) -> Result<Self, SessionError> {
        let claim = Claim::new(&dir);
        let open = move || FrameWriter::new(&dir, &[PictureFormat::H264]);
        let opened =
            tokio::task::spawn_blocking(open).await.map_err(|error| thread_failed(&error))?;
        let spool = Spool::new(opened.map_err(|error| save_error(&error))?);
        Ok(Self { spool: Some(spool), claim, outage: Outage::default(), dropped: 0 })
    }

    /// Locks the directory against other runs.
    pub(in crate::session::sender) fn claim(&mut self) -> Result<(), SessionError> {
        self.claim.take().map_err(|error| save_error(&error))
    }

    /// Number of discarded keyframes.
    pub(in crate::session::sender) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Saves keyframe `seq` after the keyframes that are still pending; returns its file, if it is
    /// written, and a message to show.
    pub(super) async fn save(
        &mut self,
        data: &Bytes,
        record: FrameRecord,
        seq: u64,
    ) -> Result<(Option<PathBuf>, Option<String>), SessionError> {
        let data = data.clone();
        let work = move |spool: &mut Spool<u64>| {
            let prepared = spool.writer().prepare(&data, None, record);
            spool.put(prepared, seq);
            spool.work(std::time::Instant::now())
        };
        let (outcomes, failed) = self.work(work).await?;
        let now = Instant::now();
        let waits = self.spool.as_ref().is_some_and(|spool| spool.due().is_some());
        let line = match failed {
            Some(error) => self.outage.failed(&save_error(&error), now),
            None if waits => None,
            None => self.outage.over(now),
        };
        let saved = outcomes.into_iter().find_map(|outcome| match outcome {
            Outcome::Written(written, _, with) if with == seq => written.files.into_iter().next(),
            _ => None,
        });
        Ok((saved, line))
    }

    /// Makes a last attempt to save the keyframes that are still pending.
    pub(super) async fn finish(&mut self) -> Result<(), SessionError> {
        if self.spool.is_none() {
            return Ok(());
        }
        let (_, failed) = self.work(Spool::finish).await?;
        failed.map_or(Ok(()), |error| Err(save_error(&error)))
    }

    async fn work(
        &mut self,
        work: impl FnOnce(&mut Spool<u64>) -> Worked + Send + 'static,
    ) -> Result<Worked, SessionError> {
        let Some(mut spool) = self.spool.take() else { return Ok((Vec::new(), None)) };
        let task = move || {
            let worked = work(&mut spool);
            (spool, worked)
        };
        let (spool, worked) =
            tokio::task::spawn_blocking(task).await.map_err(|error| thread_failed(&error))?;
        self.spool = Some(spool);
        let dropped = worked.0.iter().filter(|outcome| matches!(outcome, Outcome::Dropped(_)));
        self.dropped += dropped.count() as u64;
        Ok(worked)
    }
}

fn thread_failed(error: &tokio::task::JoinError) -> SessionError {
    SessionError::new(
        Stage::Output,
        "thread-failed",
        error.to_string(),
        "run with -v for the details",
    )
}

fn save_error(error: &SinkError) -> SessionError {
    let remedy = match error {
        SinkError::InUse { .. } => error.remedy(),
        _ => "check the --save path, its permissions and the free disk space".to_owned(),
    };
    SessionError::new(Stage::Output, "write-failed", error.to_string(), remedy)
}
