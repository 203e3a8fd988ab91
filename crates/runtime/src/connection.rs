//! A connection to a shim: calls by name, and word of its end.

use std::sync::atomic::{AtomicBool, Ordering};

use davit_types::{ErrorKind, Kind as _, Namespace};
use protobuf::Message;
use tokio::sync::watch;

use crate::bootstrap::Endpoint;
use crate::transport::Transport;
use crate::{Deadline, Error};

/// The task service, by its version.
const V2: &str = "containerd.task.v2.Task";
const V3: &str = "containerd.task.v3.Task";

/// A connection to a shim. Closes when it is dropped.
pub(crate) struct Connection {
    transport: Transport,
    v3: AtomicBool,
    closed: watch::Receiver<bool>,
}

impl Connection {
    /// Connects to `endpoint`. What passes is waited for until the deadline;
    /// everything else is final.
    pub async fn open(
        endpoint: &Endpoint,
        namespace: &Namespace,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let protocol = endpoint.protocol()?;
        let place = endpoint.place()?;
        let failed =
            |words| Error::Connect(format!("failed to create {protocol} connection: {words}"));
        let stream = deadline.limit(place.dial()).await?;
        let stream = stream.map_err(|error| failed(place.failure(&error)))?;
        let transport = deadline.limit(Transport::over(protocol, stream, namespace)).await?;
        let (transport, connection) = transport.map_err(|error| failed(error.full_message()))?;
        let (ended, closed) = watch::channel(false);
        tokio::spawn(async move {
            connection.await;
            // Nobody may be left who wants to know.
            let _ = ended.send(true);
        });
        Ok(Self { transport, v3: AtomicBool::new(endpoint.version >= 3), closed })
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
        let payload = request.write_to_bytes().map_err(malformed)?;
        let answer = self.transport.call(service, method, payload, left).await?;
        A::parse_from_bytes(&answer).map_err(malformed)
    }

    /// Returns when the shim has gone. Never, when the connection was given up
    /// on this side, because the daemon ends: that says nothing of the shim.
    pub async fn closed(&self) {
        if self.closed.clone().wait_for(|closed| *closed).await.is_err() {
            std::future::pending().await
        }
    }
}

fn malformed(error: protobuf::Error) -> Error {
    Error::Shim { kind: ErrorKind::Internal, message: error.to_string() }
}
