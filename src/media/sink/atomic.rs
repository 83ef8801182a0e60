//! Files that appear complete or not at all: they are written under another name, synced and renamed.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::SinkError;

/// Writes a file that appears under its name complete or not at all. An existing file is kept.
///
/// # Errors
/// Writing failed (nothing is left behind), or the file already exists.
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

/// Checks that files can be created in a directory.
///
/// # Errors
/// Files cannot be created.
pub(super) fn check_writable(dir: &Path) -> Result<(), SinkError> {
    let wrong = |cause| SinkError::Write { path: dir.to_owned(), cause };
    let (mut file, probe) = create_beside(&dir.join("probe")).map_err(wrong)?;
    let written = io::Write::write_all(&mut file, b".").and_then(|()| file.sync_all());
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(wrong)
}

/// Makes the names in a directory survive a power failure, where the system supports it.
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

/// Creates a hidden file with an unpredictable name in the directory of `path`, to be renamed to it.
/// An existing file, or a symbolic link that points elsewhere, is not opened (`O_CREAT | O_EXCL`,
/// POSIX `open`).
///
/// # Errors
/// The file cannot be created.
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
    fn a_failure_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let error = write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.remedy().contains("free some disk space"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let path = dir.path().join("a");
        let plant = |name: String| {
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        };
        // The names that earlier versions would open.
        plant(format!(".a.{}.tmp", std::process::id()));
        plant(format!(".probe.{}.tmp", std::process::id()));
        check_writable(dir.path()).unwrap();
        write(&path, |file| file.write_all(b"mine")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn temporary_names_are_distinct() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let names: Vec<_> = (0..8).map(|_| create_beside(&path).unwrap().1).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn an_existing_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"first").unwrap();
        assert!(write(&path, |file| file.write_all(b"second")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
