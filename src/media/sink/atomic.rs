//! Files that appear complete or not at all: written under another name, synced, renamed.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::SinkError;

/// Writes a file; under its name there is all of it or nothing. A file that is there already is kept.
///
/// # Errors
/// Writing failed (nothing is left behind), or the file is there already.
pub(super) fn write(
    path: &Path,
    content: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), SinkError> {
    let temporary = temporary_name(path);
    let wrong = |cause| SinkError::Write { path: path.to_owned(), cause };
    let result = fill(&temporary, content).and_then(|()| {
        if path.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&temporary, path)
    });
    if result.is_err() {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(wrong)
}

/// Makes sure that files can be made in a directory.
///
/// # Errors
/// They cannot.
pub(super) fn check_writable(dir: &Path) -> Result<(), SinkError> {
    let probe = temporary_name(&dir.join("probe"));
    let wrong = |cause| SinkError::Write { path: dir.to_owned(), cause };
    let written = fill(&probe, |file| io::Write::write_all(file, b"."));
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(wrong)
}

/// Makes names in a directory last through a power failure, where the system can do that.
///
/// # Errors
/// The disk failed.
pub(super) fn sync_directory(dir: &Path) -> Result<(), SinkError> {
    #[cfg(unix)]
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|cause| SinkError::Write { path: dir.to_owned(), cause })?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

fn fill(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    content(&mut file)?;
    file.sync_all()
}

/// In the same directory, hidden, and this process's own.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let error = write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.remedy().contains("room on the disk"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"first").unwrap();
        assert!(write(&path, |file| file.write_all(b"second")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
