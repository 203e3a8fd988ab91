//! The service `containerd.services.events.ttrpc.v1.Events`, through which
//! shims publish (containerd, `plugins/services/events/ttrpc.go`). Mounted on
//! the daemon's ttrpc socket.

use std::sync::Arc;

use davit_events::Exchange;
use davit_protocols::convert::ttrpc::{any_from, time};
use davit_protocols::ttrpc::events_service::ForwardRequest;
use davit_protocols::ttrpc::server::{Call, Status};
use davit_protocols::ttrpc::types;
use davit_runtime::Tasks;
use davit_types::{Envelope, ErrorKind, Kind, Namespace};
use protobuf::Message as _;

/// The service's full name.
pub const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Takes events in from shims.
#[derive(Clone)]
pub struct EventIntake {
    /// Where they go.
    pub exchange: Arc<Exchange>,
    /// Who wants to know of exits first.
    pub tasks: Tasks,
}

impl EventIntake {
    /// Answers a call to [`SERVICE`].
    ///
    /// # Errors
    /// What the shim reads: Unimplemented for an unknown method,
    /// InvalidArgument for an event that is malformed.
    pub async fn handle(&self, call: Call) -> Result<Vec<u8>, Status> {
        if call.method != "Forward" {
            return Err(Status::unknown_method(&call.method));
        }
        let request = ForwardRequest::parse_from_bytes(&call.payload)
            .map_err(|error| Status::bad_payload(&error))?;
        let envelope = envelope(request.envelope.unwrap_or_default())?;
        // The exit is on disk before anybody hears of it, and nobody hears of
        // it twice.
        if self.tasks.observe(&envelope).await {
            self.exchange.forward(envelope).map_err(|error| Status::of(&error))?;
        }
        Ok(Vec::new())
    }
}

fn envelope(wire: types::Envelope) -> Result<Envelope, Status> {
    let refuse = |words: String| Status::new(ErrorKind::InvalidArgument, words);
    let namespace = Namespace::new(wire.namespace)
        .map_err(|error| refuse(format!("event envelope has invalid namespace: {error}")))?;
    let no_time = || Status::of(&davit_events::Error::NoTimestamp);
    let stamp = wire.timestamp.into_option().ok_or_else(no_time)?;
    let timestamp = time("timestamp", &stamp).map_err(|error| refuse(error.full_message()))?;
    let event = wire.event.into_option().map(any_from).unwrap_or_default();
    Ok(Envelope { timestamp, namespace, topic: wire.topic, event })
}
