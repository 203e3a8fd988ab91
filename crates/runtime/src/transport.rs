//! The two protocols in which a shim is called. The messages are the same to
//! the bit, and so is what the calls promise: only frames and names differ.

use std::pin::Pin;
use std::time::Duration;

use davit_protocols::error::RemoteError;
use davit_protocols::ttrpc::client as ttrpc;
use davit_protocols::ttrpc::server::Metadata;
use davit_protocols::unary as grpc;
use davit_types::{Kind as _, Namespace};
use tokio::net::UnixStream;

use crate::Error;
use crate::bootstrap::Protocol;

/// Where Go's ttrpc and gRPC look for the namespace.
const TTRPC_NAMESPACE: &str = "containerd-namespace-ttrpc";
const GRPC_NAMESPACE: &str = "containerd-namespace";

/// Ends with the connection.
pub(crate) type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection in one of the protocols, and what is sent with every call.
pub(crate) enum Transport {
    Ttrpc(ttrpc::Client, Metadata),
    Grpc(grpc::Client, Vec<(String, String)>),
}

impl Transport {
    /// Speaks `protocol` over `stream`. The second half is to be polled.
    pub async fn over(
        protocol: Protocol,
        stream: UnixStream,
        namespace: &Namespace,
    ) -> Result<(Self, Ended), Error> {
        let metadata = |key: &str| vec![(key.to_owned(), namespace.to_string())];
        match protocol {
            Protocol::Ttrpc => {
                let (client, connection) = ttrpc::Client::over(stream);
                let metadata = Metadata(metadata(TTRPC_NAMESPACE));
                Ok((Self::Ttrpc(client, metadata), Box::pin(connection)))
            }
            Protocol::Grpc => {
                let (client, connection) = grpc::Client::over(stream).await?;
                Ok((Self::Grpc(client, metadata(GRPC_NAMESPACE)), Box::pin(connection)))
            }
        }
    }

    /// Calls a method with an encoded message; the answer is one, too.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        match self {
            Self::Ttrpc(client, metadata) => {
                Ok(client.call_bytes(service, method, payload, metadata, timeout).await?)
            }
            Self::Grpc(client, metadata) => {
                Ok(client.call_bytes(service, method, &payload, metadata, timeout).await?)
            }
        }
    }
}

impl From<ttrpc::ClientError> for Error {
    fn from(error: ttrpc::ClientError) -> Self {
        match error {
            ttrpc::ClientError::Closed => Self::Closed(Protocol::Ttrpc),
            ttrpc::ClientError::DeadlineExceeded => Self::Deadline,
            ttrpc::ClientError::Status(status) => RemoteError::from(status).into(),
            other => Self::Shim { kind: other.kind(), message: other.full_message() },
        }
    }
}

impl From<grpc::CallError> for Error {
    fn from(error: grpc::CallError) -> Self {
        match error {
            grpc::CallError::Closed => Self::Closed(Protocol::Grpc),
            grpc::CallError::DeadlineExceeded => Self::Deadline,
            grpc::CallError::Status(status) => status.into(),
            other => Self::Shim { kind: other.kind(), message: other.full_message() },
        }
    }
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        Self::Shim { kind: error.kind, message: error.message }
    }
}
