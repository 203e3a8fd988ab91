//! What goes wrong with a part that runs elsewhere.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use davit_protocols::error::RemoteError;
use davit_types::{ErrorKind, Kind};

/// A failed call of a proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index.
    #[error(transparent)]
    Index(#[from] davit_index::Error),
    /// What the other process answered; its words.
    #[error(transparent)]
    Remote(RemoteError),
    /// Nobody answers at the address, or the connection broke.
    #[error("{who} is away: {reason}: unavailable")]
    Away {
        /// `snapshotter "stargz" at /run/x.sock`.
        who: String,
        /// What the transport said.
        reason: String,
    },
    /// The other process took too long.
    #[error("{who} has not answered within {} s: deadline exceeded", limit.as_secs())]
    Stuck {
        /// `snapshotter "stargz" at /run/x.sock`.
        who: String,
        /// How long it had.
        limit: Duration,
    },
    /// An address that can be none.
    #[error("{who}: {reason}")]
    Address {
        /// `snapshotter "stargz" at /run/x.sock`.
        who: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory that is needed here.
    #[error("prepare {}", path.display())]
    Scratch {
        /// Which.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
    /// The other process contradicts itself.
    #[error("unexpected error from snapshotter: {0}: unknown")]
    Unexpected(RemoteError),
    /// The daemon ends, or failed inside.
    #[error("the request failed inside the daemon: internal")]
    Inside,
}

impl Error {
    /// The kind of what the other process answered.
    pub(super) fn answered(&self) -> Option<ErrorKind> {
        match self {
            Self::Remote(error) => Some(error.kind),
            _ => None,
        }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Index(error) => error.kind(),
            Self::Remote(error) => error.kind,
            Self::Away { .. } => ErrorKind::Unavailable,
            Self::Stuck { .. } => ErrorKind::DeadlineExceeded,
            Self::Address { .. } => ErrorKind::InvalidArgument,
            Self::Scratch { source, .. } => ErrorKind::of_io(source),
            Self::Unexpected(_) => ErrorKind::Unknown,
            Self::Inside => ErrorKind::Internal,
        }
    }
}
