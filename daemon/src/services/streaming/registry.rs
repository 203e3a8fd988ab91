//! The streams that are open, by namespace and id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use davit_types::Namespace;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::Status;

/// Streams that may be open at a time.
const STREAMS_MAX: usize = 4096;

type Key = (Namespace, String);

/// A client's stream, for who uses it. It ends when `outgoing` is dropped.
#[derive(Debug)]
pub struct Opened {
    /// What the client sends.
    pub incoming: tonic::Streaming<Any>,
    /// What the client gets.
    pub outgoing: mpsc::Sender<Result<Any, Status>>,
}

/// The streams that are open. A stream is used once; its id is free again
/// when it has ended.
#[derive(Debug, Default)]
pub struct Streams {
    /// `None` for one that is in use.
    open: Mutex<HashMap<Key, Option<Opened>>>,
}

/// Keeps a stream's id taken until it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    streams: Arc<Streams>,
    key: Key,
}

impl Streams {
    /// Takes in a new stream.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken, in containerd's words;
    /// `ResourceExhausted` when there are too many streams.
    pub(super) fn register(
        self: &Arc<Self>,
        namespace: Namespace,
        id: String,
        opened: Opened,
    ) -> Result<Registration, Status> {
        let key = (namespace, id);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&key) {
            return Err(Status::already_exists("already exists"));
        }
        if open.len() >= STREAMS_MAX {
            let text = format!("more than {STREAMS_MAX} streams: resource exhausted");
            return Err(Status::resource_exhausted(text));
        }
        open.insert(key.clone(), Some(opened));
        Ok(Registration { streams: Arc::clone(self), key })
    }

    /// The stream of that id, for use.
    ///
    /// # Errors
    /// `NotFound` when there is none or it is in use.
    pub fn take(&self, namespace: &Namespace, id: &str) -> Result<Opened, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = open.get_mut(&(namespace.clone(), id.to_owned())).and_then(Option::take);
        opened.ok_or_else(|| Status::not_found(format!("stream {id:?}: not found")))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let removed = {
            let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.remove(&self.key)
        };
        // Not under the lock: the connection's own is taken in there.
        drop(removed);
    }
}
