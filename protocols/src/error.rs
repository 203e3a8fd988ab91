//! The one table between kinds of error and the status codes of gRPC and
//! ttrpc, and both ways across it.
//!
//! The numbers are containerd's (`errdefs/pkg/errgrpc`), and ttrpc's codes are
//! gRPC's. A status carries the whole message of an error; coming back, the
//! message is kept to the letter.

use davit_types::{ErrorKind, Kind};

/// Kind and code. A code that is not here comes back as
/// [`ErrorKind::Unknown`].
const CODES: [(ErrorKind, i32); 16] = [
    (ErrorKind::Canceled, 1),
    (ErrorKind::Unknown, 2),
    (ErrorKind::InvalidArgument, 3),
    (ErrorKind::DeadlineExceeded, 4),
    (ErrorKind::NotFound, 5),
    (ErrorKind::AlreadyExists, 6),
    (ErrorKind::PermissionDenied, 7),
    (ErrorKind::ResourceExhausted, 8),
    (ErrorKind::FailedPrecondition, 9),
    (ErrorKind::Aborted, 10),
    (ErrorKind::OutOfRange, 11),
    (ErrorKind::Unimplemented, 12),
    (ErrorKind::Internal, 13),
    (ErrorKind::Unavailable, 14),
    (ErrorKind::DataLoss, 15),
    (ErrorKind::Unauthenticated, 16),
];

/// The number of `kind` in both protocols; that of Unknown for kinds that the
/// table does not have.
pub fn code(kind: ErrorKind) -> i32 {
    CODES.iter().find(|(k, _)| *k == kind).map_or(2, |(_, code)| *code)
}

/// The kind that the number `code` stands for.
pub fn kind(code: i32) -> ErrorKind {
    CODES.iter().find(|(_, c)| *c == code).map_or(ErrorKind::Unknown, |(kind, _)| *kind)
}

/// What the other side of a connection answered with, or that it did not
/// answer. Prints as the message that was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// The kind that the status code stands for; Unavailable when the
    /// connection broke.
    pub kind: ErrorKind,
    /// The message, unchanged.
    pub message: String,
}

impl Kind for RemoteError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

#[cfg(feature = "grpc")]
mod grpc {
    use super::*;

    /// The status that tells a gRPC client of `error`: code by kind, message
    /// with every source.
    pub fn status<E: Kind + ?Sized>(error: &E) -> tonic::Status {
        tonic::Status::new(grpc_code(error.kind()), error.full_message())
    }

    /// The gRPC code of `kind`.
    pub fn grpc_code(kind: ErrorKind) -> tonic::Code {
        tonic::Code::from_i32(code(kind))
    }

    impl From<tonic::Status> for RemoteError {
        fn from(status: tonic::Status) -> Self {
            Self { kind: kind(status.code() as i32), message: status.message().to_owned() }
        }
    }
}
#[cfg(feature = "grpc")]
pub use grpc::{grpc_code, status};

#[cfg(feature = "ttrpc")]
impl From<crate::ttrpc::status::Status> for RemoteError {
    fn from(status: crate::ttrpc::status::Status) -> Self {
        Self { kind: kind(status.code), message: status.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("container \"a\"")]
    struct Missing(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("not found")]
    struct Inner;

    impl Kind for Missing {
        fn kind(&self) -> ErrorKind {
            ErrorKind::NotFound
        }
    }

    #[test]
    fn every_kind_has_one_code_and_comes_back() {
        for (index, (k, c)) in CODES.iter().enumerate() {
            assert_eq!(*c, index as i32 + 1, "the table is in the order of its codes");
            assert_eq!((code(*k), kind(*c)), (*c, *k));
        }
    }

    #[test]
    fn a_code_without_a_kind_is_unknown() {
        for c in [-1, 0, 17, i32::MAX] {
            assert_eq!(kind(c), ErrorKind::Unknown);
        }
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn grpc_there_and_back() {
        let status = status(&Missing(Inner));
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert_eq!(status.message(), "container \"a\": not found");
        let back = RemoteError::from(status);
        assert_eq!(
            (back.kind, back.to_string().as_str()),
            (ErrorKind::NotFound, "container \"a\": not found")
        );
        for (k, c) in CODES {
            assert_eq!(grpc_code(k) as i32, c);
        }
    }

    #[cfg(feature = "ttrpc")]
    #[test]
    fn ttrpc_there_and_back() {
        use crate::ttrpc::status::Status;
        let status = Status::of(&Missing(Inner));
        assert_eq!((status.code, status.message.as_str()), (5, "container \"a\": not found"));
        let back = RemoteError::from(status);
        assert_eq!(
            (back.kind, back.to_string().as_str()),
            (ErrorKind::NotFound, "container \"a\": not found")
        );
        for (k, c) in CODES {
            assert_eq!(Status::new(k, "").code, c);
        }
    }
}
