//! Where signing keys come from: texts, files, and directories of files, read again to rotate them.
//!
//! The first key that can sign signs. Of a directory, the file whose name is last in order comes first:
//! with names like `2026-11.pem` and `2026-12.pem` the newest signs, and the older ones still verify.
//! A file with a public key only verifies, so that every node can know a key before one signs with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    jws::{Key, KeyError, SigningKeys},
    secret::Secret,
};

/// Longest key file read, bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// One or more keys.
#[derive(Debug, Clone)]
pub enum KeyOrigin {
    /// A secret or PEM text.
    Text(Secret),
    /// A file with a secret or PEM text, or a directory of such files.
    Path {
        /// Id of the key instead of the one made from it; for a file only.
        kid: Option<String>,
        /// Where it is.
        path: PathBuf,
    },
}

/// Keys that cannot be read. No variant shows any of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    /// A file or directory cannot be read.
    #[error("`{}` cannot be read: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no key.
    #[error("`{}`: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// A directory without a key, or an id for a directory.
    #[error("`{}` {reason}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The keys do not go together, or a text is none.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads all keys, in order.
///
/// # Errors
/// The first key that cannot be read; two of one id; none at all.
pub fn read(origins: &[KeyOrigin]) -> Result<SigningKeys, KeySourceError> {
    let mut keys = Vec::new();
    for origin in origins {
        match origin {
            KeyOrigin::Text(secret) => keys.push(Key::from_secret_or_pem(secret)?),
            KeyOrigin::Path { kid, path } if path.is_dir() => {
                if kid.is_some() {
                    let reason = "is a directory, and cannot have one id: name its files";
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

/// The key files of a directory, the last by name first. Others are left out: a README is no key.
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
            tracing::warn!(file = %path.display(), "not a key file: *.pem and *.key are");
        }
    }
    if found.is_empty() {
        let reason = "holds no key file: *.pem or *.key";
        return Err(KeySourceError::Directory { path: dir.to_owned(), reason });
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

fn read_file(path: &Path, kid: Option<&str>) -> Result<Key, KeySourceError> {
    let unread = |source| KeySourceError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unread)?.len() > MAX_BYTES {
        return Err(unread(io::Error::new(io::ErrorKind::InvalidData, "it is too long for a key")));
    }
    let bytes = fs::read(path).map_err(unread)?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Key::named(kid, &Secret::from(text))
        .map_err(|source| KeySourceError::File { path: path.to_owned(), source })
}
