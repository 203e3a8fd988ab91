//! What can go wrong with a snapshot's directory.

use std::io;
use std::path::{Path, PathBuf};

use davit_types::{ErrorKind, Kind};

/// A failed operation of a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory cannot hold this kind of snapshots.
    #[error("{}: {why}", path.display())]
    Unsupported {
        /// The backend's directory.
        path: PathBuf,
        /// What it lacks.
        why: String,
    },
    /// This kind of snapshots is not for this machine or directory, which is
    /// no fault of anybody. The text ends as containerd's, by which `ctr`
    /// tells it from one.
    #[error("{0}: skip plugin")]
    Skipped(String),
    /// A mapping label that is not `container:host:length,…`.
    #[error("failed to unmarshal snapshot ID mapped labels: {0}: invalid argument")]
    InvalidMapping(String),
    /// What was written could not be made a layer.
    #[error("convert {}: {reason}", path.display())]
    Convert {
        /// What was written.
        path: PathBuf,
        /// What the program said.
        reason: String,
    },
    /// A directory could not be mounted over, or what is mounted there not be
    /// unmounted.
    #[error("change what is mounted in {}", path.display())]
    Mount {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: davit_sys::Error,
    },
    /// The file system said no.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps `source` for use in `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source: source.into() }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. } | Self::Skipped(_) => ErrorKind::Unimplemented,
            Self::Convert { .. } => ErrorKind::Unknown,
            Self::InvalidMapping(_) => ErrorKind::InvalidArgument,
            Self::Mount { source, .. } => source.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }
}
