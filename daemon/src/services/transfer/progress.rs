//! Telling a client where its transfer is.

use davit_client::import::Imported;
use davit_protocols::grpc::containerd::types::{Descriptor, transfer as types};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::Status;

use crate::services::streaming::Opened;

/// A client's progress stream, if it has one. The stream ends when this is
/// dropped.
#[derive(Debug, Default)]
pub(super) struct Progress(Option<mpsc::Sender<Result<Any, Status>>>);

impl Progress {
    /// On this stream; the client says nothing there.
    pub(super) fn on(stream: Opened) -> Self {
        Self(Some(stream.outgoing))
    }

    /// Whether anybody listens.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Tells of a step of the whole.
    pub(super) async fn tell(&self, event: &str) {
        self.send(types::Progress { event: event.to_owned(), ..Default::default() }).await;
    }

    /// Tells of a step of the whole that is about `target`.
    pub(super) async fn about(&self, event: &str, name: &str, target: Descriptor) {
        let (event, name) = (event.to_owned(), name.to_owned());
        let desc = Some(target);
        self.send(types::Progress { event, name, desc, ..Default::default() }).await;
    }

    /// Tells of an image that has its name now.
    pub(super) async fn saved(&self, image: Imported) {
        let event = "saved".to_owned();
        let Imported { name, target } = image;
        self.send(types::Progress { event, name, desc: Some(target), ..Default::default() }).await;
    }

    /// Tells of an image, or of a blob of it.
    pub(super) async fn send(&self, progress: types::Progress) {
        let Some(sender) = &self.0 else { return };
        let type_url = "containerd.types.transfer.Progress".to_owned();
        let any = Any { type_url, value: progress.encode_to_vec() };
        // A client that does not listen misses this and nothing else.
        let _ = sender.send(Ok(any)).await;
    }
}
