//! Atomic file writes: written and synced under a temporary name in the same directory, then renamed.
//!
//! A target that is not a regular file (a pipe, `/dev/null`, `/dev/stdout`) is written directly: renaming would
//! replace it with a file. A symbolic link is kept; the file it points to is replaced.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::media::sink::create_beside;

/// Writes a file, replacing an existing one.
///
/// # Errors
/// It cannot be written; its previous content is kept, and no temporary file is left.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(target) = target(path)? else { return fs::write(path, bytes) };
    let (mut file, beside) = create_beside(&target)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, &target));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Checks whether [`write()`] can write the file, without modifying it.
///
/// # Errors
/// It cannot be written.
pub fn check(path: &Path) -> io::Result<()> {
    let Some(target) = target(path)? else { return Ok(()) };
    let (_, beside) = create_beside(&target)?;
    fs::remove_file(&beside)
}

/// The path to write, with symbolic links resolved. `None` if it exists and is not a regular file.
fn target(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => Ok(None),
        Ok(_) => fs::canonicalize(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(path.to_owned())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for text in ["first, the longer one", "second"] {
            check(&path).unwrap();
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_check_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        check(&dir.path().join("a")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unwritable_path_is_an_error_of_both() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("no/where"), PathBuf::new()] {
            assert!(check(&path).is_err() && write(&path, b"x").is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("a"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        // The name that versions before this one would open.
        let planted = dir.path().join(format!(".a.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, planted).unwrap();
        check(&path).unwrap();
        write(&path, b"mine").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // A link to the device: if this test fails, the device itself is not replaced with a file.
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        check(&null).unwrap();
        write(&null, b"gone").unwrap();
        assert!(!fs::metadata(&null).unwrap().is_file());
    }
}
