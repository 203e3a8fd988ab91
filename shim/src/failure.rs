//! What a method of a shim fails with.

use std::fmt;

use davit_protocols::ttrpc::server::Status;
use davit_types::{ErrorKind, Kind};

/// A failed call: the kind decides the status code, the message is what the
/// client reads. Any typed error of Davit's crates converts into it, with all
/// its sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    /// A failure of this kind. The words of the kind ("not found") are put
    /// behind the message on the wire, as Go's wrapped errors have them.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The thing named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The caller sent something that can never work.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The thing is in a state that forbids the operation.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    /// This shim does not do that.
    pub fn unimplemented(method: &str) -> Self {
        Self::new(ErrorKind::Unimplemented, method)
    }

    /// An error of the operating system, with what was being done.
    pub fn io(operation: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::of_io(error), format!("{operation}: {error}"))
    }

    /// The kind, for callers that branch on it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without the words of the kind, unless it was made so.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.kind.to_string();
        let named = matches!(self.kind, ErrorKind::Unknown) || self.message.ends_with(&words);
        if named {
            f.write_str(&self.message)
        } else if self.message.is_empty() {
            f.write_str(&words)
        } else {
            write!(f, "{}: {words}", self.message)
        }
    }
}

impl<E: Kind> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), message: error.full_message() }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Status::new(failure.kind, failure.to_string())
    }
}
