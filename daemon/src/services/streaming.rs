//! The service `containerd.services.streaming.v1` (containerd,
//! `plugins/services/streaming` and `plugins/streaming`): streams that a
//! client opens and names, and that a call of another service then uses.

mod registry;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use davit_protocols::grpc::containerd::services::streaming::v1 as wire;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use wire::streaming_server::Streaming as Service;

use super::namespace;
use registry::Registration;
pub use registry::{Opened, Streams};

/// How long a client may take to say which stream it opens.
const INIT_LIMIT: Duration = Duration::from_secs(10);
/// The longest id of a stream, in bytes.
const ID_LIMIT: usize = 1024;
/// Messages to a client that may wait to be sent, for each stream.
const PENDING_MAX: usize = 16;

/// Serves streams.
#[derive(Debug)]
pub struct Streaming {
    /// Those that are open.
    pub streams: Arc<Streams>,
}

/// What goes to the client. The stream is forgotten when this is dropped, be
/// it finished or the connection gone.
#[derive(Debug)]
pub struct Outgoing {
    messages: mpsc::Receiver<Result<Any, Status>>,
    _registration: Registration,
}

impl Stream for Outgoing {
    type Item = Result<Any, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(context)
    }
}

#[tonic::async_trait]
impl Service for Streaming {
    type StreamStream = Outgoing;

    async fn stream(
        &self,
        request: Request<tonic::Streaming<Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let namespace = namespace(&request)?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(INIT_LIMIT, incoming.message()).await;
        let first = first
            .map_err(|_| Status::deadline_exceeded("no StreamInit: deadline exceeded"))??
            .ok_or_else(|| Status::invalid_argument("no StreamInit: invalid argument"))?;
        let id = id_of(&first)?;
        let (sender, messages) = mpsc::channel(PENDING_MAX);
        // That the stream can be used now is told before anybody uses it.
        let empty = Any { type_url: "google.protobuf.Empty".into(), value: Vec::new() };
        sender
            .try_send(Ok(empty))
            .map_err(|_| Status::internal("a new stream is full: internal"))?;
        let opened = Opened { incoming, outgoing: sender };
        let registration = self.streams.register(namespace, id, opened)?;
        Ok(Response::new(Outgoing { messages, _registration: registration }))
    }
}

/// The id in a client's first message.
fn id_of(first: &Any) -> Result<String, Status> {
    let init = decode::<wire::StreamInit>(first, "containerd.services.streaming.v1.StreamInit")?;
    if init.id.len() > ID_LIMIT {
        let text = format!("stream id of more than {ID_LIMIT} bytes: invalid argument");
        return Err(Status::invalid_argument(text));
    }
    Ok(init.id)
}

/// Whether `any` says that it is a message of type `name`.
pub(super) fn is(any: &Any, name: &str) -> bool {
    any.type_url.rsplit('/').next() == Some(name)
}

/// The message of type `name` that `any` holds.
///
/// # Errors
/// `InvalidArgument` when it is another or broken.
pub(super) fn decode<M: Message + Default>(any: &Any, name: &str) -> Result<M, Status> {
    let invalid = |reason: String| Status::invalid_argument(format!("{reason}: invalid argument"));
    if !is(any, name) {
        return Err(invalid(format!("{:?} where {name} is expected", any.type_url)));
    }
    M::decode(any.value.as_slice()).map_err(|error| invalid(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_must_name_the_stream() {
        let name = "containerd.services.streaming.v1.StreamInit";
        let any = |type_url: &str, id: &str| Any {
            type_url: type_url.to_owned(),
            value: wire::StreamInit { id: id.to_owned() }.encode_to_vec(),
        };
        assert_eq!(id_of(&any(name, "progress-1")).unwrap(), "progress-1");
        assert_eq!(id_of(&any(&format!("types.test/{name}"), "a")).unwrap(), "a");
        for wrong in [any("google.protobuf.Empty", "a"), any(name, &"a".repeat(ID_LIMIT + 1))] {
            assert_eq!(id_of(&wrong).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
