//! What keeps the daemon from starting.

use std::path::PathBuf;

use davit_types::{ErrorKind, Kind};

use crate::config::ConfigError;

/// Why the daemon does not start, or a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error("configuration refused")]
    Config(#[from] ConfigError),
    /// A file, directory or socket.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried: `make directory`.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon works on the same directory.
    #[error("{what} {} is in use by {owner}", path.display())]
    InUse {
        /// `root`, `state` or `address`.
        what: &'static str,
        /// The directory or socket.
        path: PathBuf,
        /// What is known of who uses it.
        owner: String,
    },
    /// Something below the daemon; its message is whole.
    #[error("{doing}: {message}")]
    Part {
        /// `open the index`.
        doing: &'static str,
        /// What kind of failure.
        kind: ErrorKind,
        /// What it said.
        message: String,
    },
    /// A subcommand's input.
    #[error("{0}")]
    Input(String),
}

impl Error {
    /// For `map_err` on an operation with a path.
    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// For `map_err` on what another crate answers.
    pub fn part<E: Kind>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Part { doing, kind: error.kind(), message: error.full_message() }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::InUse { .. } => ErrorKind::FailedPrecondition,
            Self::Part { kind, .. } => *kind,
            Self::Input(_) => ErrorKind::InvalidArgument,
        }
    }
}
