//! What the stores refuse, and what goes wrong underneath.

use std::path::PathBuf;

use davit_types::{ErrorKind, InvalidId, Kind};

/// The result of every call to the index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the index failed. The texts are those of containerd's
/// metadata store (`core/metadata`), which clients match.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thing named does not exist. The text names it: `container "x"`.
    #[error("{0}: not found")]
    NotFound(String),
    /// The thing to be made exists.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// The thing is in a state that forbids the operation.
    #[error("{0}: failed precondition")]
    FailedPrecondition(String),
    /// The caller sent something that can never work.
    #[error("{0}: invalid argument")]
    InvalidArgument(String),
    /// Not supported.
    #[error("{0}: not implemented")]
    Unimplemented(String),
    /// No better word: containerd gives these no kind either.
    #[error("{0}")]
    Unknown(String),
    /// A name that breaks the rule for names.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The blob store failed.
    #[error(transparent)]
    Content(#[from] davit_content::Error),
    /// A snapshot backend failed.
    #[error(transparent)]
    Snapshots(#[from] davit_snapshots::Error),
    /// The database could not be opened, read or written.
    #[error("index {path:?}: {operation}", path = .path.display().to_string())]
    Database {
        /// The file.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is no database of ours, or is damaged.
    #[error("index {path:?} cannot be used: {reason}", path = .path.display().to_string())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Self::FailedPrecondition(_) => ErrorKind::FailedPrecondition,
            Self::InvalidArgument(_) | Self::InvalidId(_) => ErrorKind::InvalidArgument,
            Self::Unimplemented(_) => ErrorKind::Unimplemented,
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Content(source) => source.kind(),
            Self::Snapshots(source) => source.kind(),
            Self::Database { .. } => ErrorKind::Internal,
            Self::Damaged { .. } => ErrorKind::DataLoss,
        }
    }
}
