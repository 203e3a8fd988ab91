//! What a shim is given when it starts to serve.

use std::path::PathBuf;
use std::sync::Arc;

use davit_types::Namespace;
use runc_client::SealedCopy;
use tokio::sync::watch;

use crate::{Publisher, Reaper};

/// Everything a serving shim has from the library. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The namespace that owns every container of this shim.
    pub namespace: Namespace,
    /// The id of the container that this shim was started for; further ones
    /// of the same group join later, by Create.
    pub id: String,
    /// The bundle of that container, absolute; also the working directory.
    pub bundle: PathBuf,
    /// Whether the daemon asked for debug logs.
    pub debug: bool,
    /// The daemon's gRPC socket, as given.
    pub grpc_address: String,
    /// The daemon's ttrpc socket, as given; empty with daemons that have none.
    pub ttrpc_address: String,
    /// The way of events to the daemon.
    pub publisher: Publisher,
    /// A copy of the runtime's binary, for running in place of that.
    pub sealed_runtime: Option<Arc<SealedCopy>>,
    /// The one place where children are reaped.
    pub reaper: Reaper,
    /// Ends the process.
    pub shutdown: ShutdownHandle,
}

/// Ends the shim: the server stops taking calls, running calls and queued
/// events get a bounded time, the socket is removed.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(watch::Sender<bool>);

impl ShutdownHandle {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Asks for the end. Returns at once; asking twice is asking once.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the end has been asked for.
    pub async fn requested(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so the channel cannot close meanwhile.
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}
