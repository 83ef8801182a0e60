//! Allows only one run per directory: two runs would give their keyframes the same numbers.
//!
//! The lock is on the directory itself, so nothing is left behind, however the process ends. A run takes it
//! when it has joined its room: before that it writes nothing, and a run that never joins does not block
//! others.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::SinkError;

/// Number of attempts to lock, and the pause between them: a run that only checks holds the lock for a
/// moment.
const TRIES: (u32, Duration) = (10, Duration::from_millis(10));

/// The directory that a run writes to.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    taken: bool,
    /// `None` until it is locked, or if the system or the file system cannot lock directories.
    directory: Option<File>,
}

impl Claim {
    /// Creates a claim without locking the directory.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), taken: false, directory: None }
    }

    /// Locks the directory against other runs until this is dropped or the process ends. Further calls do
    /// nothing.
    ///
    /// # Errors
    /// [`SinkError::InUse`]: another run has locked it.
    pub fn take(&mut self) -> Result<(), SinkError> {
        if self.taken {
            return Ok(());
        }
        let mut tries = TRIES.0;
        self.directory = loop {
            tries -= 1;
            match locked(&self.dir, File::try_lock) {
                Err(SinkError::InUse { .. }) if tries > 0 => thread::sleep(TRIES.1),
                locked => break locked?,
            }
        };
        self.taken = true;
        Ok(())
    }
}

/// Checks that no other run has locked the directory.
///
/// # Errors
/// [`SinkError::InUse`]: another run has locked it.
pub(super) fn check_free(dir: &Path) -> Result<(), SinkError> {
    // Any number of processes may check concurrently.
    locked(dir, File::try_lock_shared).map(|_| ())
}

fn locked(
    dir: &Path,
    lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<Option<File>, SinkError> {
    let Ok(directory) = File::open(dir) else { return Ok(None) };
    match lock(&directory) {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => Err(SinkError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => {
            tracing::debug!("{} cannot be locked: {error}", dir.display());
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::FrameWriter, *};

    #[test]
    fn a_directory_has_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Claim::new(dir.path());
        // A run that has not joined does not block others.
        let others = [(); 3].map(|()| FrameWriter::new(dir.path(), &[]).unwrap());
        first.take().unwrap();
        first.take().unwrap();
        for error in [
            FrameWriter::new(dir.path(), &[]).unwrap_err(),
            Claim::new(dir.path()).take().unwrap_err(),
        ] {
            assert!(matches!(error, SinkError::InUse { .. }), "{error}");
            assert!(error.remedy().contains("directory of its own"), "{}", error.remedy());
        }
        drop((first, others));
        FrameWriter::new(dir.path(), &[]).unwrap();
        Claim::new(dir.path()).take().unwrap();
    }
}
