//! What can go wrong with tasks.

use std::path::PathBuf;

use davit_types::{ContainerId, ErrorKind, InvalidId, Kind};

use crate::Protocol;

/// A failure of this crate, or one that a shim reported. The texts are
/// containerd's, which clients match.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No task of this id.
    #[error("task {0} not found")]
    NotFound(ContainerId),
    /// A task of this id is there already.
    #[error("task {0}: already exists")]
    AlreadyExists(ContainerId),
    /// The id of an exec is malformed.
    #[error("invalid exec id {id}: {fault}")]
    ExecId {
        /// What was sent.
        id: String,
        /// What is wrong with it.
        fault: InvalidId,
    },
    /// No binary belongs to the runtime's name; the text says why.
    #[error("{0}")]
    Runtime(String),
    /// A file or directory of the bundle.
    #[error("failed to {operation} {}", .path.display())]
    Io {
        /// What was tried: `create bundle directory`.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A shim binary could not be run, failed, or answered with something
    /// that is no answer.
    #[error("{0}")]
    Binary(String),
    /// Nobody listens at a shim's socket.
    #[error("{0}")]
    Connect(String),
    /// A shim's answer to a call; its own words.
    #[error("{message}")]
    Shim {
        /// The kind that it gave.
        kind: ErrorKind,
        /// The message that it gave.
        message: String,
    },
    /// The connection to a shim is closed.
    #[error("{}: closed", .0.name())]
    Closed(Protocol),
    /// The caller's time is up.
    #[error("context deadline exceeded")]
    Deadline,
    /// The caller has gone.
    #[error("context canceled")]
    Canceled,
    /// One of the above, with what was being done.
    #[error("{doing}")]
    While {
        /// `failed to start shim`.
        doing: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// Something failed, and then so did undoing it.
    #[error("{} (and the clean-up failed: {cleanup})", .first.full_message())]
    Rollback {
        /// What failed first; its kind is the kind of the whole.
        first: Box<Error>,
        /// Every failure of the clean-up.
        cleanup: String,
    },
}

impl Error {
    /// Adds what was being done.
    pub(crate) fn doing(self, doing: impl Into<String>) -> Self {
        Self::While { doing: doing.into(), source: Box::new(self) }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Self::ExecId { .. } => ErrorKind::InvalidArgument,
            Self::Runtime(_) | Self::Binary(_) | Self::Connect(_) | Self::Closed(_) => {
                ErrorKind::Unknown
            }
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Shim { kind, .. } => *kind,
            Self::Deadline => ErrorKind::DeadlineExceeded,
            Self::Canceled => ErrorKind::Canceled,
            Self::While { source, .. } => source.kind(),
            Self::Rollback { first, .. } => first.kind(),
        }
    }
}
