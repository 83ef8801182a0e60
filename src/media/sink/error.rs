//! Errors of writing keyframes, and their remedies.

use std::{io, path::PathBuf};

use crate::types::os_error::out_of_files;

/// Why a keyframe could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The directory cannot be created.
    #[error("cannot create the directory {}: {cause}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Something in the directory cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Another run is writing to the directory.
    #[error("another run is already writing to {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

impl SinkError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let cause = match self {
            Self::CreateDirectory { cause, .. }
            | Self::Read { cause, .. }
            | Self::Write { cause, .. } => cause,
            Self::InUse { .. } => {
                return "give each run a directory of its own, or stop the other run".to_owned();
            }
        };
        match cause.kind() {
            // `io::ErrorKind` has no name for EMFILE and ENFILE.
            _ if out_of_files(cause) => "close connections, or raise the limit (ulimit -n)",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some disk space; files already written are complete"
            }
            io::ErrorKind::PermissionDenied => "choose a writable directory",
            io::ErrorKind::ReadOnlyFilesystem => "choose a directory on a writable disk",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "a file exists where the directory should be: choose another name"
            }
            _ => "check the disk, or choose another directory",
        }
        .to_owned()
    }
}
