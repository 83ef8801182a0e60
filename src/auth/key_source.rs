//! Sources of signing keys: text, files, and directories of files, which are reloaded for rotation.
//!
//! The first private key signs. In a directory, the file whose name sorts last comes first: with names like
//! `2026-11.pem` and `2026-12.pem` the newest one signs, and the older ones still verify. A file with a public
//! key only verifies, so that all nodes can know a key before one of them signs with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    jws::{Key, KeyError, SigningKeys},
    secret::Secret,
};

/// Maximum size of a key file, bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Source of one or more keys.
#[derive(Debug, Clone)]
pub enum KeyOrigin {
    /// A secret or PEM text.
    Text(Secret),
    /// A file with a secret or PEM text, or a directory of such files.
    Path {
        /// Id of the key instead of the one derived from it; for a file only.
        kid: Option<String>,
        /// Path of the file or directory.
        path: PathBuf,
    },
}

/// Why keys cannot be read. No variant shows key material.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// A file or directory cannot be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    Read {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
    /// A file contains no usable key.
    #[error("`{}`: {source}", .path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Why its key is not usable.
        source: KeyError,
    },
    /// A directory without a key, or with an id.
    #[error("`{}` {reason}", .path.display())]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        /// What is wrong with it, as a predicate.
        reason: &'static str,
    },
    /// The keys conflict, or a text is not a usable key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads all keys, in order.
///
/// # Errors
/// The first key that cannot be read; two keys with the same id; no key at all.
pub fn read(origins: &[KeyOrigin]) -> Result<SigningKeys, KeySourceError> {
    let mut keys = Vec::new();
    for origin in origins {
        match origin {
            KeyOrigin::Text(secret) => keys.push(Key::from_secret_or_pem(secret)?),
            KeyOrigin::Path { kid, path } if path.is_dir() => {
                if kid.is_some() {
                    let reason = "is a directory, which cannot have an id: list its files instead";
                    return Err(KeySourceError::Directory { path: path.clone(), reason });
                }
                for file in files(path)? {
                    keys.push(read_file(&file, None)?);
                }
            }
            KeyOrigin::Path { kid, path } => keys.push(read_file(path, kid.as_deref())?),
        }
    }
    Ok(SigningKeys::new(keys)?)
}

/// The key files of a directory, in descending order of names. Other files are skipped.
fn files(dir: &Path) -> Result<Vec<PathBuf>, KeySourceError> {
    let unread = |source| KeySourceError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        if path.extension().is_some_and(|end| end == "pem" || end == "key") {
            found.push(path);
        } else {
            tracing::warn!(file = %path.display(), "skipped: not a key file (*.pem or *.key)");
        }
    }
    if found.is_empty() {
        let reason = "contains no key file (*.pem or *.key)";
        return Err(KeySourceError::Directory { path: dir.to_owned(), reason });
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

fn read_file(path: &Path, kid: Option<&str>) -> Result<Key, KeySourceError> {
    let unread = |source| KeySourceError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unread)?.len() > MAX_BYTES {
        return Err(unread(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large for a key",
        )));
    }
    let bytes = fs::read(path).map_err(unread)?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Key::named(kid, &Secret::from(text))
        .map_err(|source| KeySourceError::File { path: path.to_owned(), source })
}
