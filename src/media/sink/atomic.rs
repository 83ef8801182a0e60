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
    let wrong = |cause| SinkError::Write { path: path.to_owned(), cause };
    let (mut file, temporary) = create_beside(path).map_err(wrong)?;
    let result = content(&mut file).and_then(|()| file.sync_all()).and_then(|()| {
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
    let wrong = |cause| SinkError::Write { path: dir.to_owned(), cause };
    let (mut file, probe) = create_beside(&dir.join("probe")).map_err(wrong)?;
    let written = io::Write::write_all(&mut file, b".").and_then(|()| file.sync_all());
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

/// A new file in the directory of `path`, to be renamed to it: hidden, with an unpredictable
/// name. An existing file, or a symbolic link that leads elsewhere, is not opened
/// (`O_CREAT | O_EXCL`, POSIX `open`).
///
/// # Errors
/// The file cannot be made.
pub fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_file_name(format!(".orion-peer-{:016x}.tmp", rand::random::<u64>()));
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    Ok((file, temporary))
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

    #[cfg(unix)]
    #[test]
    fn a_planted_link_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let path = dir.path().join("a");
        let plant = |name: String| {
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        };
        // The names that versions before this one would open.
        plant(format!(".a.{}.tmp", std::process::id()));
        plant(format!(".probe.{}.tmp", std::process::id()));
        check_writable(dir.path()).unwrap();
        write(&path, |file| file.write_all(b"mine")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_name_is_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let names: Vec<_> = (0..8).map(|_| create_beside(&path).unwrap().1).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
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
