//! What kind of failure something is, independent of any wire protocol.

use std::fmt;

/// The kinds of error that callers tell apart. One for one containerd's error
/// definitions (`github.com/containerd/errdefs`); only `protocols` maps them
/// to gRPC and ttrpc codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No better word; the message says what happened.
    Unknown,
    /// The caller sent something that can never work.
    InvalidArgument,
    /// The thing named does not exist.
    NotFound,
    /// The thing to be made exists.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// A limit is reached: disk, memory, processes.
    ResourceExhausted,
    /// The thing is in a state that forbids the operation.
    FailedPrecondition,
    /// Somebody else was faster; trying the whole again can work.
    Aborted,
    /// A position or number lies outside what exists.
    OutOfRange,
    /// Not supported, here or by the runtime in use.
    Unimplemented,
    /// Broken on our side.
    Internal,
    /// A peer is away; the same call can work later.
    Unavailable,
    /// Stored bytes are damaged or gone.
    DataLoss,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller gave up.
    Canceled,
    /// Time ran out.
    DeadlineExceeded,
}

impl ErrorKind {
    /// The kind that an error of the operating system stands for.
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Self::NotFound,
            Io::AlreadyExists => Self::AlreadyExists,
            Io::PermissionDenied => Self::PermissionDenied,
            Io::InvalidInput | Io::InvalidData => Self::InvalidArgument,
            Io::TimedOut => Self::DeadlineExceeded,
            Io::Unsupported => Self::Unimplemented,
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => {
                Self::ResourceExhausted
            }
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::BrokenPipe => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for ErrorKind {
    /// The words that containerd's Go errors print, which clients match.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid argument",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::FailedPrecondition => "failed precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out of range",
            Self::Unimplemented => "not implemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data loss",
            Self::Unauthenticated => "unauthenticated",
            Self::Canceled => "canceled",
            Self::DeadlineExceeded => "deadline exceeded",
        })
    }
}

/// An error that knows its kind. Every area's error enum implements it; the
/// whole message of such an error, sources included, is what a client reads.
pub trait Kind: std::error::Error {
    /// The kind, for callers that branch on it.
    fn kind(&self) -> ErrorKind;

    /// The message with every source behind it, separated by `: `, as Go's
    /// wrapped errors print.
    fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        text
    }
}
