//! ttrpc's framing: a header of ten bytes (length and stream id in network
//! order, type, flags), then the message
//! (`github.com/containerd/ttrpc`, `channel.go` and `PROTOCOL.md`).
//!
//! Nothing here believes a length before the bytes have come: memory grows
//! with what is received, not with what is announced.

use std::io;

use davit_types::ErrorKind;
use protobuf::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MESSAGE_TYPE_RESPONSE,
    MessageHeader, Request, Response,
};

use super::status::Status;

/// The longest message, in bytes; both sides refuse longer ones.
pub const MESSAGE_MAX: usize = MESSAGE_LENGTH_MAX;

/// What memory is reserved for a message before its bytes have come.
const RESERVED_MAX: usize = 16 << 10;

/// How much of an over-long message is thrown away at a time.
const DISCARDED_AT_ONCE: usize = 4 << 10;

/// One frame, as it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A header and its whole message.
    Whole(MessageHeader, Vec<u8>),
    /// A header that announced more than [`MESSAGE_MAX`]; the bytes were
    /// thrown away, and the next frame follows.
    TooLong(MessageHeader),
}

/// Reads one frame. `None`: the peer has closed between two frames.
///
/// Not cancel-safe: a future that is dropped half-way has lost bytes.
///
/// # Errors
/// The stream's; `UnexpectedEof` inside a frame.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Frame>> {
    let mut bytes = [0u8; MESSAGE_HEADER_LENGTH];
    let first = reader.read(&mut bytes).await?;
    if first == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut bytes[first..]).await?;
    let header = MessageHeader::from(bytes);
    let length = header.length as usize;
    if length > MESSAGE_MAX {
        discard(reader, length).await?;
        return Ok(Some(Frame::TooLong(header)));
    }
    let mut message = Vec::with_capacity(length.min(RESERVED_MAX));
    reader.take(length as u64).read_to_end(&mut message).await?;
    match message.len() == length {
        true => Ok(Some(Frame::Whole(header, message))),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn discard<R: AsyncRead + Unpin>(reader: &mut R, mut length: usize) -> io::Result<()> {
    let mut scrap = vec![0u8; DISCARDED_AT_ONCE];
    while length > 0 {
        let part = length.min(DISCARDED_AT_ONCE);
        let read = reader.read(&mut scrap[..part]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length -= read;
    }
    Ok(())
}

/// The answer to a frame that is too long, in containerd's words.
pub fn too_long(length: usize) -> Status {
    Status::new(
        ErrorKind::ResourceExhausted,
        format!("message length {length} exceed maximum message size of {MESSAGE_MAX}"),
    )
}

/// Encodes a request's frame. `Err`: it is longer than [`MESSAGE_MAX`].
pub(super) fn request(stream: u32, request: &Request) -> Result<Vec<u8>, Status> {
    whole(stream, MESSAGE_TYPE_REQUEST, request)
}

/// Encodes a response's frame; one that is too long becomes the status that
/// says so, since the peer waits for something.
pub(super) fn response(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let mut response = Response::new();
    match result {
        // Go's server always sends a status, empty for success.
        Ok(payload) => {
            response.payload = payload;
            response.status = Some(ttrpc::proto::Status::new()).into();
        }
        Err(status) => response.status = Some(status.into_wire()).into(),
    }
    whole(stream, MESSAGE_TYPE_RESPONSE, &response).unwrap_or_else(|status| {
        let mut response = Response::new();
        response.status = Some(status.into_wire()).into();
        whole(stream, MESSAGE_TYPE_RESPONSE, &response).unwrap_or_default()
    })
}

fn whole(stream: u32, kind: u8, message: &impl Message) -> Result<Vec<u8>, Status> {
    let internal =
        |e| Status::new(ErrorKind::Internal, format!("ttrpc: error marshaling payload: {e}"));
    let length = usize::try_from(message.compute_size()).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        return Err(too_long(length));
    }
    let mut frame = Vec::with_capacity(MESSAGE_HEADER_LENGTH + length);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[kind, 0]);
    message.write_to_vec(&mut frame).map_err(internal)?;
    Ok(frame)
}
