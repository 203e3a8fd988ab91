//! A small gRPC client for shims: unary calls of encoded messages, any number
//! at once over one connection, as the one for ttrpc is.
//!
//! A call that is dropped is cancelled. A connection that breaks, or whose
//! peer says that it is going, ends and fails every call that waits on it with
//! [`CallError::Closed`]; connecting again is the caller's business.
//!
//! tonic's channel was not used: it connects again by itself and tells nobody
//! that a connection has ended, which is how the death of a shim is heard of.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use davit_types::{ErrorKind, Kind};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tonic::Status;

use crate::error::RemoteError;

/// The longest answer that is read; what gRPC's clients read unless they are
/// told otherwise.
pub const ANSWER_MAX: usize = 4 << 20;

/// What small answers that have come and are not read yet may take, in h2's
/// reckoning. Its own limit ends the connection when a hundred calls are
/// answered at once; there is one answer to a call, and the calls are ours.
const FRAMES_MAX: usize = 1 << 30;

/// In front of a message: one byte for compression, four for the length.
const PREFIX: usize = 5;

/// May hold what is not base64, on which tonic panics; nobody reads it.
const DETAILS: &str = "grpc-status-details-bin";

/// Units of `grpc-timeout`, in nanoseconds.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];
/// The largest number that `grpc-timeout` takes.
const TIMEOUT_MAX: u128 = 99_999_999;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection is closed, or breaks before the answer has come. What
    /// the call was to do may have been done.
    #[error("grpc: closed")]
    Closed,
    /// The peer answered with a status; the text is its own.
    #[error(transparent)]
    Status(RemoteError),
    /// The deadline passed.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The peer's answer is no answer, or our request cannot be sent.
    #[error("grpc: {0}")]
    Malformed(String),
}

impl Kind for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Closed => ErrorKind::Unavailable,
            Self::Status(status) => status.kind,
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Malformed(_) => ErrorKind::Internal,
        }
    }
}

/// A connection. Cheap to clone; all clones are one. The connection closes
/// when the last one and all calls are gone.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    /// Told when a call has found the connection to be of no use any more.
    over: Arc<Notify>,
}

impl Client {
    /// Uses a stream that is connected already. The future has to be spawned
    /// or polled; it ends with the connection.
    ///
    /// # Errors
    /// [`CallError::Closed`].
    pub async fn over<S>(
        stream: S,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), CallError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).data_frame_budget(FRAMES_MAX);
        let handshake = builder.handshake(stream).await;
        let (requests, connection) = handshake.map_err(|_| CallError::Closed)?;
        let over = Arc::new(Notify::new());
        let given_up = over.clone();
        let connection = async move {
            tokio::select! {
                // How it ended is told to every call.
                _ = connection => {}
                () = given_up.notified() => {}
            }
        };
        Ok((Self { requests, over }, connection))
    }

    /// Calls a method with an encoded message and returns the encoded answer.
    /// The timeout is told to the peer and kept here.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_bytes(
        &self,
        service: &str,
        method: &str,
        payload: &[u8],
        metadata: &[(String, String)],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        let head = head(service, method, metadata, timeout)?;
        let call = self.exchange(head, framed(payload)?);
        match timeout {
            Some(timeout) => tokio::time::timeout(timeout, call)
                .await
                .map_err(|_| CallError::DeadlineExceeded)?,
            None => call.await,
        }
    }

    async fn exchange(&self, head: Request<()>, payload: Bytes) -> Result<Vec<u8>, CallError> {
        let mut requests = self.requests.clone().ready().await.map_err(|e| self.failed(e))?;
        let (answer, mut body) = requests.send_request(head, false).map_err(|e| self.failed(e))?;
        body.send_data(payload, true).map_err(|e| self.failed(e))?;
        let (head, body) = answer.await.map_err(|e| self.failed(e))?.into_parts();
        if head.status != StatusCode::OK {
            let message = format!("unexpected HTTP status code received: {}", head.status);
            return Err(CallError::Malformed(message));
        }
        // Without a message, the status may come in the place of the headers.
        if let Some(status) = status(head.headers) {
            return status.and(Err(CallError::Malformed("no message in the answer".into())));
        }
        let (message, trailers) = self.read(body).await?;
        let silent = || Err(CallError::Malformed("an answer without a status".into()));
        status(trailers).unwrap_or_else(silent)?;
        unframed(message)
    }

    async fn read(&self, mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), CallError> {
        let mut message = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|e| self.failed(e))?;
            if message.len() + chunk.len() > ANSWER_MAX + PREFIX {
                let message = format!("an answer of more than {ANSWER_MAX} bytes");
                let kind = ErrorKind::ResourceExhausted;
                return Err(CallError::Status(RemoteError { kind, message }));
            }
            message.extend_from_slice(&chunk);
            body.flow_control().release_capacity(chunk.len()).map_err(|e| self.failed(e))?;
        }
        let trailers = body.trailers().await.map_err(|e| self.failed(e))?;
        Ok((message, trailers.unwrap_or_default()))
    }

    /// What it means that a stream has failed. A peer that resets one leaves
    /// the others alone; everything else is the end of them all.
    fn failed(&self, error: h2::Error) -> CallError {
        if error.is_io() || error.is_go_away() {
            self.over.notify_one();
            return CallError::Closed;
        }
        CallError::Status(Status::from_error(error.into()).into())
    }
}

fn head(
    service: &str,
    method: &str,
    metadata: &[(String, String)],
    timeout: Option<Duration>,
) -> Result<Request<()>, CallError> {
    let mut head = Request::post(format!("http://localhost/{service}/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", concat!("davit/", env!("CARGO_PKG_VERSION")));
    for (key, value) in metadata {
        head = head.header(key, value);
    }
    if let Some(timeout) = timeout {
        head = head.header("grpc-timeout", limit(timeout));
    }
    head.body(()).map_err(|error| CallError::Malformed(error.to_string()))
}

/// A timeout in the finest unit that has room for it.
fn limit(timeout: Duration) -> String {
    let nanos = timeout.as_nanos().max(1);
    let mut counts = UNITS.iter().map(|(unit, size)| (nanos.div_ceil(*size), unit));
    let (count, unit) =
        counts.find(|(count, _)| *count <= TIMEOUT_MAX).unwrap_or((TIMEOUT_MAX, &'H'));
    format!("{count}{unit}")
}

fn framed(payload: &[u8]) -> Result<Bytes, CallError> {
    let length = u32::try_from(payload.len())
        .map_err(|_| CallError::Malformed("a message of more than 4 GiB".into()))?;
    let mut frame = BytesMut::with_capacity(PREFIX + payload.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// The message of an answer, which has exactly one.
fn unframed(mut answer: Vec<u8>) -> Result<Vec<u8>, CallError> {
    let malformed = |what: &str| Err(CallError::Malformed(what.into()));
    let Some((prefix, rest)) = answer.split_first_chunk::<PREFIX>() else {
        return malformed("no message in the answer");
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return malformed("a compressed answer, which nobody asked for");
    }
    if u32::from_be_bytes(length) as usize != rest.len() {
        return malformed("an answer that is not one message");
    }
    answer.drain(..PREFIX);
    Ok(answer)
}

/// The status in these headers, if there is one.
fn status(mut headers: HeaderMap) -> Option<Result<(), CallError>> {
    headers.remove(DETAILS);
    let status = Status::from_header_map(&headers)?;
    Some(match status.code() {
        tonic::Code::Ok => Ok(()),
        _ => Err(CallError::Status(status.into())),
    })
}

#[cfg(test)]
mod tests;
