//! What the stores refuse, and what goes wrong underneath.

use std::fmt;
use std::path::{Path, PathBuf};

use davit_types::{ErrorKind, InvalidId, Kind};
use rusqlite::ErrorCode;

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
    /// As [`Error::InvalidArgument`], where containerd's words do not say so.
    #[error("{0}")]
    Refused(String),
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
    #[error("{operation} index {path:?}")]
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
    #[error("index {path:?} cannot be used: {reason}")]
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
            Self::InvalidArgument(_) | Self::Refused(_) | Self::InvalidId(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Unimplemented(_) => ErrorKind::Unimplemented,
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Content(source) => source.kind(),
            Self::Snapshots(source) => source.kind(),
            Self::Database { source, .. } => match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => ErrorKind::ResourceExhausted,
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::DataLoss,
                // As everything else that a file system refuses.
                Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly) => ErrorKind::Unknown,
                _ => ErrorKind::Internal,
            },
            Self::Damaged { .. } => ErrorKind::DataLoss,
        }
    }
}

impl From<rusqlite::Error> for Error {
    /// The file and the operation are filled in by [`Error::at`]. A full disk
    /// is called what everybody else calls it.
    fn from(source: rusqlite::Error) -> Self {
        let source = match source {
            rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::DiskFull => {
                let text = "no space left on device".to_owned();
                rusqlite::Error::SqliteFailure(code, Some(text))
            }
            other => other,
        };
        Self::Database { path: PathBuf::new(), operation: "", source }
    }
}

impl Error {
    /// Says of a failure of the database where and when it happened.
    pub(crate) fn at(self, file: &Path, doing: &'static str) -> Self {
        match self {
            Self::Database { path, source, .. } if path.as_os_str().is_empty() => {
                let source = explained(source, file);
                Self::Database { path: file.to_owned(), operation: doing, source }
            }
            other => other,
        }
    }

    /// An invalid argument, put in the words of somebody who has already said
    /// so at the end.
    pub(crate) fn invalid(text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let bare = text.strip_suffix(": invalid argument").map(str::to_owned);
        Self::InvalidArgument(bare.unwrap_or(text))
    }
}

/// The failure with its reason, where SQLite only has a number for it: a file
/// system that the kernel has made read-only.
fn explained(source: rusqlite::Error, file: &Path) -> rusqlite::Error {
    match source {
        rusqlite::Error::SqliteFailure(code, _)
            if code.code == ErrorCode::SystemIoFailure && is_read_only(file) =>
        {
            let text = "read-only file system".to_owned();
            rusqlite::Error::SqliteFailure(code, Some(text))
        }
        other => other,
    }
}

/// Whether nothing can be written beside the file. What the mount says is not
/// enough: an error of its own makes no file system say so.
fn is_read_only(file: &Path) -> bool {
    let probe = file.with_extension("probe");
    let made = std::fs::File::create(&probe);
    let _ = std::fs::remove_file(&probe);
    made.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

/// SQLite's errors cannot be cloned; this copies what those of a commit say,
/// for everybody whose change was in it.
pub(crate) fn copy_sqlite_error(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}
