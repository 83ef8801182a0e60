//! One run a directory: two would give their keyframes the same numbers.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use super::SinkError;

/// The lock of a directory, on the directory itself: nothing is left behind, however the process ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _directory: File,
}

impl DirectoryLock {
    /// Locks it; none where directories or their file system have no locks.
    ///
    /// # Errors
    /// [`SinkError::InUse`]: another run has it.
    pub(super) fn take(dir: &Path) -> Result<Option<Self>, SinkError> {
        let Ok(directory) = File::open(dir) else { return Ok(None) };
        match directory.try_lock() {
            Ok(()) => Ok(Some(Self { _directory: directory })),
            Err(TryLockError::WouldBlock) => Err(SinkError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(error)) => {
                tracing::debug!("{} cannot be locked: {error}", dir.display());
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::FrameWriter, *};

    #[test]
    fn a_directory_has_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = FrameWriter::new(dir.path(), &[]).unwrap();
        let error = FrameWriter::new(dir.path(), &[]).unwrap_err();
        assert!(matches!(error, SinkError::InUse { .. }), "{error}");
        assert!(error.remedy().contains("directory of its own"), "{}", error.remedy());
        drop(first);
        FrameWriter::new(dir.path(), &[]).unwrap();
    }
}
