//! Telling a client where its transfer is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
pub(super) struct Progress {
    sender: Option<mpsc::Sender<Result<Any, Status>>>,
    /// The client has not taken anything for too long.
    deaf: AtomicBool,
}

/// How long a transfer waits for a client to take a report.
const PATIENCE: Duration = Duration::from_secs(10);

impl Progress {
    /// On this stream; the client says nothing there.
    pub(super) fn on(stream: Opened) -> Self {
        Self::to(stream.outgoing)
    }

    pub(super) fn to(sender: mpsc::Sender<Result<Any, Status>>) -> Self {
        Self { sender: Some(sender), deaf: AtomicBool::new(false) }
    }

    /// Whether anybody listens.
    pub(super) fn is_wanted(&self) -> bool {
        self.sender.is_some()
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
        let Some(sender) = &self.sender else { return };
        let type_url = "containerd.types.transfer.Progress".to_owned();
        let any = Any { type_url, value: progress.encode_to_vec() };
        // A client that does not listen misses this and nothing else.
        if self.deaf.load(Ordering::Relaxed) {
            let _ = sender.try_send(Ok(any));
        } else if tokio::time::timeout(PATIENCE, sender.send(Ok(any))).await.is_err() {
            log::warn!("a client does not read how its transfer goes");
            self.deaf.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_holds_nobody_up() {
        let (sender, mut receiver) = mpsc::channel(1);
        let progress = Progress::to(sender);
        for _ in 0..100 {
            progress.tell("a step").await;
        }
        assert!(progress.deaf.load(Ordering::Relaxed));
        assert!(receiver.recv().await.is_some());
    }
}
