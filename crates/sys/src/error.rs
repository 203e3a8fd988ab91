//! What a system call failed with, and on what.

use std::io;
use std::path::PathBuf;

use davit_types::{ErrorKind, Kind};

/// A failed operation of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path failed.
    #[error("{operation} {}", path.display())]
    Path {
        /// What was done: `mount`, `open`, `unlink`.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system call on a process failed.
    #[error("{operation} {pid}")]
    Process {
        /// What was done: `pidfd_open`, `kill`.
        operation: &'static str,
        /// To which process.
        pid: u32,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system call without an object failed.
    #[error("{operation}")]
    Call {
        /// What was done: `socketpair`, `prctl`.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A mount option cannot mean anything.
    #[error("mount option {option:?}: {reason}")]
    MountOption {
        /// The option, as given.
        option: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the kernel does not look as documented.
    #[error("parse {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The path is something else than the operation needs.
    #[error("{} is not a {expected}", path.display())]
    WrongType {
        /// The path.
        path: PathBuf,
        /// What it ought to be: `FIFO`.
        expected: &'static str,
    },
    /// The kernel or the machine cannot do that.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl Error {
    pub(crate) fn path(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Path { operation, path: path.into(), source: source.into() }
    }

    pub(crate) fn process(operation: &'static str, pid: u32, source: impl Into<io::Error>) -> Self {
        Self::Process { operation, pid, source: source.into() }
    }

    pub(crate) fn call(operation: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Call { operation, source: source.into() }
    }

    /// The system's error number, when a system call was what failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Path { source, .. }
            | Self::Process { source, .. }
            | Self::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Path { source, .. } | Self::Call { source, .. } => ErrorKind::of_io(source),
            Self::Process { source, .. } if source.raw_os_error() == Some(libc::ESRCH) => {
                ErrorKind::NotFound
            }
            Self::Process { source, .. } => ErrorKind::of_io(source),
            Self::MountOption { .. } | Self::WrongType { .. } => ErrorKind::InvalidArgument,
            Self::Malformed { .. } => ErrorKind::Internal,
            Self::Unsupported(_) => ErrorKind::Unimplemented,
        }
    }
}

/// The result of a system call of this crate.
pub type Result<T> = std::result::Result<T, Error>;
