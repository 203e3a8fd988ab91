//! A connection to a shim: calls by name, and word of its end.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use davit_protocols::ttrpc::client::{Client, ClientError};
use davit_protocols::ttrpc::server::Metadata;
use davit_types::{ErrorKind, Kind as _, Namespace};
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::bootstrap::{Endpoint, Protocol};
use crate::{Deadline, Error};

/// The task service, by its version.
const V2: &str = "containerd.task.v2.Task";
const V3: &str = "containerd.task.v3.Task";
/// Where Go's ttrpc looks for the namespace.
const NAMESPACE: &str = "containerd-namespace-ttrpc";
/// Between two tries to reach a socket whose queue is full, or to get what a
/// connection takes on our side.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A connection to a shim. Closes when it is dropped.
pub(crate) struct Connection {
    client: Client,
    metadata: Metadata,
    v3: AtomicBool,
    closed: watch::Receiver<bool>,
}

impl Connection {
    /// Connects to `endpoint`. A socket whose queue is full is tried again
    /// until the deadline, and so is one when we are short of files or memory,
    /// which says nothing of the shim. Everything else is final.
    pub async fn open(
        endpoint: &Endpoint,
        namespace: &Namespace,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        if endpoint.protocol()? == Protocol::Grpc {
            return Err(Error::Binary("shims that speak gRPC are not supported".into()));
        }
        let path = endpoint.socket()?;
        let stream = deadline.limit(reach(&path)).await?.map_err(|error| {
            Error::Connect(format!(
                "failed to create TTRPC connection: dial unix {}: {}",
                endpoint.address.trim_start_matches("unix://"),
                crate::names::words(&error)
            ))
        })?;
        let (client, connection) = Client::over(stream);
        let (ended, closed) = watch::channel(false);
        tokio::spawn(async move {
            connection.await;
            // Nobody may be left who wants to know.
            let _ = ended.send(true);
        });
        let metadata = Metadata(vec![(NAMESPACE.into(), namespace.to_string())]);
        Ok(Self { client, metadata, v3: AtomicBool::new(endpoint.version >= 3), closed })
    }

    /// Calls a method of the task service. A shim that says it has version 3
    /// and does not is asked by version 2 from then on.
    pub async fn call<Q: Message, A: Message>(
        &self,
        method: &str,
        request: &Q,
        deadline: Deadline,
    ) -> Result<A, Error> {
        if self.v3.load(Ordering::Relaxed) {
            let answer = self.call_at(V3, method, request, deadline).await;
            match answer {
                Err(error) if error.kind() == ErrorKind::Unimplemented => {
                    let older = self.call_at(V2, method, request, deadline).await;
                    let unknown =
                        older.as_ref().is_err_and(|e: &Error| e.kind() == ErrorKind::Unimplemented);
                    if unknown {
                        return Err(error);
                    }
                    self.v3.store(false, Ordering::Relaxed);
                    return older;
                }
                answer => return answer,
            }
        }
        self.call_at(V2, method, request, deadline).await
    }

    async fn call_at<Q: Message, A: Message>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        deadline: Deadline,
    ) -> Result<A, Error> {
        let left = deadline.remaining();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Deadline);
        }
        self.client.call(service, method, request, &self.metadata, left).await.map_err(failure)
    }

    /// Returns when the shim has gone. Never, when the connection was given up
    /// on this side, because the daemon ends: that says nothing of the shim.
    pub async fn closed(&self) {
        if self.closed.clone().wait_for(|closed| *closed).await.is_err() {
            std::future::pending().await
        }
    }
}

async fn reach(path: &PathBuf) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if is_passing(&error) => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use nix::Error as E;
    let passing = [E::EAGAIN, E::EMFILE, E::ENFILE, E::ENOMEM, E::ENOBUFS];
    error.raw_os_error().is_some_and(|code| passing.contains(&E::from_raw(code)))
}

fn failure(error: ClientError) -> Error {
    match error {
        ClientError::Closed => Error::Closed,
        ClientError::DeadlineExceeded => Error::Deadline,
        ClientError::Status(status) => Error::Shim { kind: status.kind(), message: status.message },
        other => Error::Shim { kind: other.kind(), message: other.full_message() },
    }
}
