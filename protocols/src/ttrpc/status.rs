//! How a ttrpc call ended, when it did not end well.

use std::fmt;

use davit_types::{ErrorKind, Kind};
use ttrpc::proto;

use crate::error;

/// The status of a failed call: a gRPC code and the text that the client
/// reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code as it came or will go over the wire. Codes that nobody has
    /// defined are kept.
    pub code: i32,
    /// For people.
    pub message: String,
}

impl Status {
    /// A status for an error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: error::code(kind), message: message.into() }
    }

    /// What Go's ttrpc server answers for a service it does not have;
    /// callers downgrade on it.
    pub fn unknown_service(service: &str) -> Self {
        Self::new(ErrorKind::Unimplemented, format!("service {service}"))
    }

    /// What Go's ttrpc server answers for a method its service does not have.
    pub fn unknown_method(method: &str) -> Self {
        Self::new(ErrorKind::Unimplemented, format!("method {method}"))
    }

    /// What Go's ttrpc server answers for a payload that is not the message
    /// the method takes (`services.go`, `protoUnmarshal`).
    pub fn bad_payload(error: &protobuf::Error) -> Self {
        Self::new(ErrorKind::Internal, format!("ttrpc: error unmarshalling payload: {error}"))
    }

    /// A status for any typed error, with all its sources.
    pub fn of(error: &impl Kind) -> Self {
        Self::new(error.kind(), error.full_message())
    }

    /// The kind that the code stands for; `Unknown` for codes nobody has
    /// defined.
    pub fn kind(&self) -> ErrorKind {
        error::kind(self.code)
    }

    pub(super) fn into_wire(self) -> proto::Status {
        let mut wire = proto::Status::new();
        wire.code = protobuf::EnumOrUnknown::from_i32(self.code);
        wire.message = self.message;
        wire
    }

    pub(super) fn from_wire(wire: proto::Status) -> Option<Self> {
        let code = wire.code.value();
        (code != 0).then_some(Self { code, message: wire.message })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
