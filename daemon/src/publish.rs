//! `davitd publish`: hands an event from a shim's stdin to the daemon
//! (containerd, `cmd/containerd/command/publish.go`).

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use davit_protocols::grpc::containerd::services::events::v1::PublishRequest;
use davit_protocols::grpc::containerd::services::events::v1::events_client::EventsClient;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

use crate::error::Error;
use crate::services::NAMESPACE_HEADER;

/// Bytes of an event.
const MAX_SIZE: u64 = 16 << 20;
/// How long connecting and publishing may take, together.
const LIMIT: Duration = Duration::from_secs(10);

/// Reads a `google.protobuf.Any` from stdin and publishes it.
///
/// # Errors
/// There is no topic, stdin holds no such message, or the daemon refuses.
pub fn run(address: &Path, namespace: &str, topic: &str) -> Result<(), Error> {
    if topic.is_empty() {
        return Err(Error::Input("topic required to publish event".to_owned()));
    }
    let mut payload = Vec::new();
    std::io::stdin()
        .take(MAX_SIZE)
        .read_to_end(&mut payload)
        .map_err(Error::io("read", "stdin"))?;
    let event = prost_types::Any::decode(payload.as_slice())
        .map_err(|error| Error::Input(format!("publish: stdin holds no event: {error}")))?;
    let mut request =
        tonic::Request::new(PublishRequest { topic: topic.to_owned(), event: Some(event) });
    let value = MetadataValue::try_from(namespace)
        .map_err(|_| Error::Input(format!("publish: {namespace:?} is no namespace")))?;
    request.metadata_mut().insert(NAMESPACE_HEADER, value);
    request.set_timeout(LIMIT);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start", "a runtime"))?
        .block_on(send(address, request))
}

async fn send(address: &Path, request: tonic::Request<PublishRequest>) -> Result<(), Error> {
    let failed = |words: String| Error::Input(format!("publish to {}: {words}", address.display()));
    let channel = Endpoint::from_shared(format!("unix://{}", address.display()))
        .map_err(|error| failed(error.to_string()))?
        .connect_timeout(LIMIT)
        .connect()
        .await
        .map_err(|error| failed(error.to_string()))?;
    match EventsClient::new(channel).publish(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(failed(status.message().to_owned())),
    }
}
