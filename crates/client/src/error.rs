//! Why something did not work.

use std::path::PathBuf;

use davit_protocols::error as codes;
use davit_types::{ErrorKind, Kind};

/// What goes wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the address.
    #[error("cannot reach a daemon at {}", address.display())]
    Connect {
        /// The socket's path.
        address: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The daemon said no; its words.
    #[error("{message}")]
    Daemon {
        /// What kind of no.
        kind: ErrorKind,
        /// The daemon's message.
        message: String,
    },
    /// An image, an archive or a specification that is not as it should be.
    #[error("{subject}: {reason}")]
    Invalid {
        /// What: the name of the image, a digest, an entry of the archive.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller wanted no more of it; what had been made is given up.
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn invalid(subject: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { subject: subject.into(), reason: reason.to_string() }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        use std::error::Error as _;
        // A status with a source was made on this side: the connection broke,
        // or could not be made. What a daemon answers has none.
        let local = status.source().is_some() && status.code() != tonic::Code::OutOfRange;
        let kind = if local { ErrorKind::Unavailable } else { codes::kind(status.code() as i32) };
        Self::Daemon { kind, message: status.message().to_owned() }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } => ErrorKind::Unavailable,
            Self::Daemon { kind, .. } => *kind,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::Stopped => ErrorKind::Canceled,
        }
    }
}
