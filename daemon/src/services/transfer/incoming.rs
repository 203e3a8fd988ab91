//! An archive that a client sends (containerd,
//! `core/transfer/streaming/stream.go`): Data one way, WindowUpdate the other.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use davit_protocols::grpc::containerd::types::transfer as types;
use prost::Message;
use prost_types::Any;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::services::streaming::{Opened, is};

/// How much the client may send ahead of the reader, in bytes. containerd
/// has 64 KiB here, which makes for many round trips.
const WINDOW: i32 = 1 << 20;

const DATA: &str = "containerd.types.transfer.Data";

/// Reads what a client sends. For a thread that may block.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: Opened,
    runtime: Handle,
    /// Ready when nobody wants the archive any more.
    over: oneshot::Receiver<()>,
    /// What the client may still send.
    window: i32,
    rest: Bytes,
}

impl Incoming {
    /// From this stream, until the other end of `over` is dropped. To be
    /// called on the runtime.
    pub(super) fn new(stream: Opened, over: oneshot::Receiver<()>) -> Self {
        Self { stream, runtime: Handle::current(), over, window: 0, rest: Bytes::new() }
    }

    /// Waits for more. Empty at the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        let aborted = |reason| Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        let Self { stream, window, over, .. } = self;
        loop {
            if *window < WINDOW {
                let update = types::WindowUpdate { update: WINDOW }.encode_to_vec();
                let type_url = "containerd.types.transfer.WindowUpdate".to_owned();
                // A client that is gone is found by what follows.
                let _ = stream.outgoing.send(Ok(Any { type_url, value: update })).await;
                *window += WINDOW;
            }
            let message = tokio::select! {
                message = stream.incoming.message() => message.map_err(io::Error::other)?,
                () = stream.outgoing.closed() => return aborted("the client is gone"),
                _ = &mut *over => return aborted("the transfer has ended"),
            };
            let Some(message) = message else { return Ok(Bytes::new()) };
            if !is(&message, DATA) {
                log::warn!(type_url = message.type_url.as_str(); "ignored on an archive's stream");
                continue;
            }
            let data = types::Data::decode(message.value.as_slice()).map_err(io::Error::other)?;
            let data = Bytes::from(data.data);
            *window -= i32::try_from(data.len()).unwrap_or(i32::MAX).min(*window);
            if !data.is_empty() {
                return Ok(data);
            }
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.runtime.clone().block_on(self.next())?;
        }
        let size = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}
