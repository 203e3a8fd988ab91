//! What can go wrong with a layer.

use std::io;
use std::path::{Path, PathBuf};

use davit_types::{ErrorKind, Kind};

use crate::tar;

/// A failed apply or compare.
///
/// What is wrong with an archive is of the kind `Unknown`, as it is for
/// containerd: its tar reader's errors have no kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is no archive.
    #[error("read layer")]
    Archive(#[from] tar::Error),
    /// An entry that must not be applied.
    #[error("invalid archive: entry {entry:?}: {why}")]
    Refused {
        /// Its name.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// An entry that could not be applied.
    #[error("entry {entry:?}: {operation}")]
    Entry {
        /// Its name.
        entry: String,
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The stream grew over a limit.
    #[error("layer exceeds the limit of {limit} {what}: resource exhausted")]
    Limit {
        /// Of what there is too much.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The compressed stream is damaged.
    #[error("decompress layer")]
    Decompress(#[source] io::Error),
    /// Nobody knows how to read the media type.
    #[error("failed to get stream processor for {0}: no processor for media-type")]
    NoProcessor(String),
    /// Stream processors hand a media type round between them.
    #[error("failed to get stream processor for {0}: the processors never come to an end")]
    ProcessorsLoop(String),
    /// A stream processor could not be started.
    #[error("failed to get stream processor for {media_type}: start {processor}")]
    StartProcessor {
        /// The layer's.
        media_type: String,
        /// Its id and its program.
        processor: String,
        /// Why not.
        #[source]
        why: io::Error,
    },
    /// Stream processors failed: their ids, and what they said.
    #[error("stream processor {0}")]
    Processor(String),
    /// Nobody knows how to write the media type.
    #[error("unsupported diff media type: {0}: not implemented")]
    UnsupportedMediaType(String),
    /// The mounts could not be made.
    #[error("failed to mount")]
    Mount(#[source] davit_sys::Error),
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
    /// The worker process could not be started, or ended without an answer.
    #[error("unpack worker: {0}")]
    Worker(String),
    /// The worker process failed; this is what it said.
    #[error("{message}")]
    Remote {
        /// The kind of its error.
        kind: ErrorKind,
        /// Its whole message.
        message: String,
    },
}

impl Error {
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source: source.into() }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        let of_io = |source: &io::Error| match ErrorKind::of_io(source) {
            ErrorKind::ResourceExhausted => ErrorKind::ResourceExhausted,
            // What is missing or forbidden is not what the client asked about.
            _ => ErrorKind::Unknown,
        };
        match self {
            Self::Archive(tar::Error::Read { source, .. }) => of_io(source),
            Self::Archive(_)
            | Self::Refused { .. }
            | Self::NoProcessor(_)
            | Self::ProcessorsLoop(_)
            | Self::StartProcessor { .. }
            | Self::Processor(_) => ErrorKind::Unknown,
            Self::Entry { source, .. } | Self::Io { source, .. } | Self::Decompress(source) => {
                of_io(source)
            }
            Self::Limit { .. } => ErrorKind::ResourceExhausted,
            Self::UnsupportedMediaType(_) => ErrorKind::Unimplemented,
            Self::Mount(source) => match source.kind() {
                ErrorKind::NotFound => ErrorKind::Unknown,
                kind => kind,
            },
            Self::Worker(_) => ErrorKind::Internal,
            Self::Remote { kind, .. } => *kind,
        }
    }
}
