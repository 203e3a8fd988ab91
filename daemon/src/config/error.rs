//! What can be wrong with a configuration.

use std::path::PathBuf;

use davit_types::{ErrorKind, Kind};

/// Why a configuration was refused. Nothing is started with one that was.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A key or value that is wrong, and where.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From one.
        line: usize,
        /// In characters, from one.
        column: usize,
        /// What is wrong with what.
        message: String,
    },
    /// An import pattern that is none.
    #[error("imports: {pattern:?} is not a file pattern")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// Why not.
        #[source]
        source: glob::PatternError,
    },
    /// A setting that came from the command line, or that is wrong only in
    /// combination.
    #[error("{0}")]
    Invalid(String),
}

impl Kind for ConfigError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } => ErrorKind::of_io(source),
            Self::Wrong { .. } | Self::Pattern { .. } | Self::Invalid(_) => {
                ErrorKind::InvalidArgument
            }
        }
    }
}
