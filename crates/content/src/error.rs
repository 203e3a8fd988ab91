//! What can go wrong with content. The texts are containerd's
//! (`plugins/content/local`), because clients match them.

use std::io;
use std::path::{Path, PathBuf};

use davit_types::{Digest, ErrorKind, Kind};

/// A failed operation of the content store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An ingest was asked for without saying which.
    #[error("ref must not be empty: invalid argument")]
    EmptyReference,
    /// Somebody else writes to this ingest.
    #[error("ref {reference} locked for {held} (since {since}): unavailable")]
    Locked {
        /// The ingest.
        reference: String,
        /// For how long it has been held, as Go prints durations.
        held: String,
        /// Since when, as Go prints times.
        since: String,
    },
    /// There is no such blob.
    #[error("content {0}: not found")]
    NotFound(Digest),
    /// There is such a blob already.
    #[error("content {0}: already exists")]
    AlreadyExists(Digest),
    /// There is no such ingest.
    #[error("ingest ref {0:?}: not found")]
    NoIngest(String),
    /// The bytes that came are fewer or more than were promised.
    #[error("unexpected commit size {actual}, expected {expected}: failed precondition")]
    UnexpectedSize {
        /// Bytes that came.
        actual: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// The bytes that came are not those that were promised.
    #[error("unexpected commit digest {actual}, expected {expected}: failed precondition")]
    UnexpectedDigest {
        /// What came.
        actual: Digest,
        /// What was promised.
        expected: Digest,
    },
    /// An ingest can be emptied, not cut in the middle.
    #[error("Truncate: unsupported size")]
    UnsupportedTruncate,
    /// A file of the store is damaged.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A store in another process does not answer.
    #[error("{message}")]
    Away {
        /// What kind of failure.
        kind: ErrorKind,
        /// In words.
        message: String,
    },
    /// A store in another process said no.
    #[error("{message}")]
    Elsewhere {
        /// What kind of failure.
        kind: ErrorKind,
        /// In words.
        message: String,
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
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::EmptyReference => ErrorKind::InvalidArgument,
            Self::Locked { .. } => ErrorKind::Unavailable,
            Self::NotFound(_) | Self::NoIngest(_) => ErrorKind::NotFound,
            Self::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Self::UnexpectedSize { .. } | Self::UnexpectedDigest { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::UnsupportedTruncate => ErrorKind::Unknown,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::Away { kind, .. } | Self::Elsewhere { kind, .. } => *kind,
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }
}
