//! What can go wrong, and what kind of failure it is.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The runtime knows no such container.
    #[error("{0}")]
    NotFound(Box<Failure>),
    /// A container of that id exists.
    #[error("{0}")]
    AlreadyExists(Box<Failure>),
    /// The container or its process is not running (any more), or otherwise in
    /// a state that forbids the operation: killing what has exited, starting
    /// what was started, pausing what is paused, deleting what runs.
    #[error("{0}")]
    NotRunning(Box<Failure>),
    /// The runtime, as built or on this host, cannot do this.
    #[error("{0}")]
    Unsupported(Box<Failure>),
    /// The runtime refuses an id, a signal, a bundle or a specification.
    #[error("{0}")]
    InvalidArgument(Box<Failure>),
    /// The host or the runtime does not permit it.
    #[error("{0}")]
    PermissionDenied(Box<Failure>),
    /// The runtime failed for any other reason.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// The client refuses an argument; the runtime was not started.
    #[error("{operation}: {reason}")]
    Refused {
        /// The operation, for instance `create`.
        operation: &'static str,
        /// Which argument, and why.
        reason: String,
    },
    /// There is no such runtime, or it is not executable.
    #[error("cannot run {}", binary.display())]
    BinaryNotFound {
        /// The runtime as it was given.
        binary: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Time ran out. The runtime process was killed and reaped.
    #[error("{operation}: no result within {} ms", limit.as_millis())]
    Timeout {
        /// The operation, for instance `create`.
        operation: &'static str,
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// The operating system failed the client.
    #[error("{action}")]
    Io {
        /// What the client was doing, and to what.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The runtime's output is not what it should be.
    #[error("{operation}: unexpected output {output:?}")]
    Parse {
        /// The operation, for instance `state`.
        operation: &'static str,
        /// The beginning of the output.
        output: String,
        /// Where parsing stopped, if the output should have been JSON.
        source: Option<serde_json::Error>,
    },
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(failure)
            | Self::AlreadyExists(failure)
            | Self::NotRunning(failure)
            | Self::Unsupported(failure)
            | Self::InvalidArgument(failure)
            | Self::PermissionDenied(failure)
            | Self::Failed(failure) => failure.kind,
            Self::Refused { .. } => ErrorKind::InvalidArgument,
            Self::BinaryNotFound { .. } => ErrorKind::BinaryNotFound,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Io { .. } => ErrorKind::Io,
            Self::Parse { .. } => ErrorKind::Parse,
        }
    }

    /// What the runtime reported, if it was the runtime that failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::NotFound(failure)
            | Self::AlreadyExists(failure)
            | Self::NotRunning(failure)
            | Self::Unsupported(failure)
            | Self::InvalidArgument(failure)
            | Self::PermissionDenied(failure)
            | Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }

    pub(crate) fn parse(
        operation: &'static str,
        output: &[u8],
        source: Option<serde_json::Error>,
    ) -> Self {
        const SHOWN: usize = 256;
        let output = String::from_utf8_lossy(&output[..output.len().min(SHOWN)]).into_owned();
        Self::Parse { operation, output, source }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let failure = Box::new(failure);
        match failure.kind {
            ErrorKind::NotFound => Self::NotFound(failure),
            ErrorKind::AlreadyExists => Self::AlreadyExists(failure),
            ErrorKind::NotRunning => Self::NotRunning(failure),
            ErrorKind::Unsupported => Self::Unsupported(failure),
            ErrorKind::InvalidArgument => Self::InvalidArgument(failure),
            ErrorKind::PermissionDenied => Self::PermissionDenied(failure),
            _ => Self::Failed(failure),
        }
    }
}

/// A runtime that ended with an error, and everything it said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The operation, for instance `create`.
    pub operation: &'static str,
    /// How the runtime process ended.
    pub status: ExitStatus,
    /// Every error it reported during the call, oldest first, from its log and
    /// from stderr; without duplicates. Empty when it died without a word.
    pub messages: Vec<String>,
    /// What kind of failure the messages tell of.
    pub kind: ErrorKind,
}

impl Failure {
    /// All messages in one, separated by `; `. Empty when there are none.
    pub fn message(&self) -> String {
        self.messages.join("; ")
    }

    /// The last message, which is the one that ended the runtime.
    pub fn last_message(&self) -> Option<&str> {
        self.messages.last().map(String::as_str)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.messages.is_empty() {
            return write!(f, "{}: the runtime ended with {}", self.operation, self.status);
        }
        write!(f, "{}: {}", self.operation, self.message())
    }
}

/// The kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such container.
    NotFound,
    /// The container exists.
    AlreadyExists,
    /// Not running (any more), or another state than the operation needs.
    NotRunning,
    /// The runtime cannot do this.
    Unsupported,
    /// An argument that can never work.
    InvalidArgument,
    /// Not permitted.
    PermissionDenied,
    /// The program to be run in the container does not exist there. (Shells
    /// call this status 127.)
    CommandNotFound,
    /// The program to be run in the container is not executable. (Shells call
    /// this status 126.)
    CommandNotExecutable,
    /// A limit of the host is reached: disk, memory, processes, descriptors.
    ResourceExhausted,
    /// There is no such runtime binary.
    BinaryNotFound,
    /// Time ran out.
    Timeout,
    /// An error of the operating system in the client.
    Io,
    /// Output that makes no sense.
    Parse,
    /// Any other failure of the runtime.
    Failed,
}
