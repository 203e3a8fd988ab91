//! What can go wrong with mounts.

use std::path::PathBuf;

use davit_types::{ErrorKind, Kind};

use crate::template::TemplateError;

/// Why mounts were not made, found or removed. Texts and kinds are
/// containerd's, where it has the case.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// None of them needs the daemon.
    #[error("not implemented")]
    NothingToDo,
    /// The name is taken.
    #[error("mount {0:?}: already exists")]
    AlreadyExists(String),
    /// Nobody has the name.
    #[error("mount {0:?} not found")]
    NotFound(String),
    /// Another call about the name did not end in time.
    #[error("mount {0:?} is being worked on: unavailable")]
    Busy(String),
    /// The name is empty or too long.
    #[error("a mount's name must have 1 to {max} bytes, not {length}: invalid argument", max = super::NAME_MAX)]
    Name {
        /// Bytes that it has.
        length: usize,
    },
    /// A mount's options or type, or the number of mounts.
    #[error("{0}: invalid argument")]
    Invalid(String),
    /// What containerd does not do either.
    #[error("{0}: not implemented")]
    Unsupported(String),
    /// A value that cannot be read; containerd gives these no kind.
    #[error("{0}")]
    Malformed(String),
    /// A template in a mount.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A mount that was refused.
    #[error("mount failed {kind} at {}", target.display())]
    Mount {
        /// Its type.
        kind: String,
        /// Where.
        target: PathBuf,
        /// Why.
        #[source]
        source: davit_sys::Error,
    },
    /// What is mounted could not be found out.
    #[error(transparent)]
    Mounted(davit_sys::Error),
    /// One or more mounts that are still there.
    #[error("unmount {0}")]
    Unmount(String),
    /// A program that makes filesystems.
    #[error("failed format {}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A file or directory.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory of all activations.
    #[error(transparent)]
    Directory(crate::error::Error),
}

impl MountError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

impl Kind for MountError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NothingToDo | Self::Unsupported(_) => ErrorKind::Unimplemented,
            Self::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Busy(_) => ErrorKind::Unavailable,
            Self::Name { .. } | Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::Malformed(_)
            | Self::Template(_)
            | Self::Mount { .. }
            | Self::Unmount(_)
            | Self::Format { .. } => ErrorKind::Unknown,
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Directory(error) => error.kind(),
            Self::Mounted(error) => error.kind(),
        }
    }
}
