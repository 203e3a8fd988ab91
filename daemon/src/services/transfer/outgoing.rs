//! An archive that a client receives (containerd,
//! `core/transfer/streaming/writer.go`): Data one way, WindowUpdate the other.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use davit_protocols::grpc::containerd::types::transfer as types;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::Status;

use crate::services::streaming::{Opened, decode, is};

/// What a client's window never stays under, in bytes: when it has taken so
/// much that the window is smaller, it sends an update of this size.
const WINDOW: i64 = 64 << 10;
/// Bytes in one message.
const MESSAGE: usize = 32 << 10;
/// Bytes in the last one. With as many, the update that fills the window is
/// not sent before all of it was taken.
const LAST: usize = WINDOW as usize;
/// How long a client may take over the last message, once it is sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

const UPDATE: &str = "containerd.types.transfer.WindowUpdate";

/// Sends what comes to a client, until `archive` has ended and the client has
/// taken it all. The client writes its file while it waits for the answer to
/// its call, so that this must not be given before.
///
/// # Errors
/// `Unavailable` when the client is gone.
pub(super) async fn send(
    mut stream: Opened,
    mut archive: mpsc::Receiver<Bytes>,
) -> Result<(), Status> {
    let mut window = 0;
    let mut pending = BytesMut::new();
    while let Some(bytes) = archive.recv().await {
        pending.extend_from_slice(&bytes);
        while pending.len() >= LAST + MESSAGE {
            let message = pending.split_to(MESSAGE).freeze();
            send_one(&mut stream, &mut window, &message).await?;
        }
    }
    if pending.len() > LAST {
        let message = pending.split_to(pending.len() - LAST).freeze();
        send_one(&mut stream, &mut window, &message).await?;
    }
    send_one(&mut stream, &mut window, &pending).await?;
    let flushed =
        async { while window < WINDOW && update(&mut stream, &mut window).await.is_ok() {} };
    if tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_err() {
        log::warn!("a client is slow to take the end of an archive");
    }
    Ok(())
}

/// Sends each text as soon as the client takes it, until there are no more.
///
/// # Errors
/// `Unavailable` when the client is gone.
pub(super) async fn send_at_once(
    mut stream: Opened,
    mut texts: mpsc::Receiver<Bytes>,
) -> Result<(), Status> {
    let mut window = 0;
    while let Some(text) = texts.recv().await {
        for piece in text.chunks(MESSAGE) {
            send_one(&mut stream, &mut window, piece).await?;
        }
    }
    Ok(())
}

async fn send_one(stream: &mut Opened, window: &mut i64, data: &[u8]) -> Result<(), Status> {
    let size = data.len() as i64;
    while *window < size {
        update(stream, window).await?;
    }
    *window -= size;
    let type_url = "containerd.types.transfer.Data".to_owned();
    let value = types::Data { data: data.to_vec() }.encode_to_vec();
    stream.outgoing.send(Ok(Any { type_url, value })).await.map_err(|_| gone())
}

/// Waits for the client to want more.
async fn update(stream: &mut Opened, window: &mut i64) -> Result<(), Status> {
    let message = tokio::select! {
        message = stream.incoming.message() => message?.ok_or_else(gone)?,
        () = stream.outgoing.closed() => return Err(gone()),
    };
    if is(&message, UPDATE) {
        *window += i64::from(decode::<types::WindowUpdate>(&message, UPDATE)?.update.max(0));
    } else {
        log::warn!(type_url = message.type_url.as_str(); "ignored on an archive's stream");
    }
    Ok(())
}

fn gone() -> Status {
    Status::unavailable("the client takes no more of the archive: unavailable")
}
