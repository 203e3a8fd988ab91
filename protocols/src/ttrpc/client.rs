//! A small ttrpc client: unary calls, any number at once over one connection.
//!
//! A call that is dropped is forgotten; its answer is thrown away when it
//! comes. A connection that breaks fails every call that waits on it with
//! [`ClientError::Closed`]; connecting again is the caller's business.
//!
//! The `ttrpc` crate's client was not used: it keeps several tasks and
//! channels per connection, and does not tell a closed connection from other
//! failures by type.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use davit_types::{ErrorKind, Kind};
use protobuf::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use ttrpc::proto::{KeyValue, MESSAGE_TYPE_RESPONSE, Request, Response};

use super::frame::{self, Frame};
use super::server::Metadata;
use super::status::Status;

/// How many requests may wait to be written; further calls wait before that.
pub const UNWRITTEN_MAX: usize = 64;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection is closed, or breaks before the answer has come. What
    /// the call was to do may have been done.
    #[error("ttrpc: closed")]
    Closed,
    /// The peer answered with a status; the text is its own.
    #[error("{0}")]
    Status(Status),
    /// The deadline passed.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The peer's answer cannot be decoded, or our request not encoded.
    #[error("ttrpc: {0}")]
    Malformed(String),
    /// There is nobody at the socket.
    #[error("dial unix {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Kind for ClientError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Closed => ErrorKind::Unavailable,
            Self::Connect { source, .. } => match ErrorKind::of_io(source) {
                ErrorKind::NotFound => ErrorKind::Unavailable,
                kind => kind,
            },
            Self::Status(status) => status.kind(),
            Self::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Self::Malformed(_) => ErrorKind::Internal,
        }
    }
}

type Answer = Result<Vec<u8>, ClientError>;

/// A connection. Cheap to clone; all clones are one. The connection closes
/// when the last one and all calls are gone.
#[derive(Clone)]
pub struct Client {
    requests: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Calls that wait for their answers, by stream id.
struct Waiting {
    answers: HashMap<u32, oneshot::Sender<Answer>>,
    next: u32,
    closed: bool,
}

impl Client {
    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = |source| ClientError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(connect)?;
        let (client, connection) = Self::over(stream);
        tokio::spawn(connection);
        Ok(client)
    }

    /// Uses a stream that is connected already. The future has to be spawned
    /// or polled; it ends with the connection.
    pub fn over<S>(stream: S) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (requests, unwritten) = mpsc::channel(UNWRITTEN_MAX);
        let waiting = Waiting { answers: HashMap::new(), next: 1, closed: false };
        let waiting = Arc::new(Mutex::new(waiting));
        let connection = run(stream, unwritten, waiting.clone());
        (Self { requests, waiting }, connection)
    }

    /// Whether the connection has ended. A call made now fails.
    pub fn is_closed(&self) -> bool {
        lock(&self.waiting).closed
    }

    /// Calls a method with encoded bytes and returns the encoded answer. The
    /// timeout is told to the peer and kept here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call_bytes(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        metadata: &Metadata,
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, ClientError> {
        let mut request = Request::new();
        request.service = service.to_owned();
        request.method = method.to_owned();
        request.payload = payload;
        request.timeout_nano =
            timeout.map_or(0, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX).max(1));
        request.metadata = metadata.0.iter().map(|(key, value)| key_value(key, value)).collect();
        let call = self.exchange(request);
        match timeout {
            Some(timeout) => tokio::time::timeout(timeout, call)
                .await
                .map_err(|_| ClientError::DeadlineExceeded)?,
            None => call.await,
        }
    }

    /// Calls a method with messages.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<Q: Message, A: Message>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        metadata: &Metadata,
        timeout: Option<Duration>,
    ) -> Result<A, ClientError> {
        let malformed = |e: protobuf::Error| ClientError::Malformed(e.to_string());
        let payload = request.write_to_bytes().map_err(malformed)?;
        let answer = self.call_bytes(service, method, payload, metadata, timeout).await?;
        A::parse_from_bytes(&answer).map_err(malformed)
    }

    async fn exchange(&self, request: Request) -> Answer {
        let place = self.requests.reserve().await.map_err(|_| ClientError::Closed)?;
        let (forget, answer) = self.send(place, &request)?;
        let answer = answer.await.unwrap_or(Err(ClientError::Closed));
        drop(forget);
        answer
    }

    /// Gives the request its stream id and queues it, in one go: ids must go
    /// out in the order in which they are given.
    fn send(
        &self,
        place: mpsc::Permit<'_, Vec<u8>>,
        request: &Request,
    ) -> Result<(Forget<'_>, oneshot::Receiver<Answer>), ClientError> {
        let mut waiting = lock(&self.waiting);
        let frame = frame::request(waiting.next, request).map_err(ClientError::Status)?;
        let (stream, answer) = waiting.register()?;
        place.send(frame);
        Ok((Forget { waiting: &self.waiting, stream }, answer))
    }
}

impl Waiting {
    fn register(&mut self) -> Result<(u32, oneshot::Receiver<Answer>), ClientError> {
        // Ids are used up after two thousand million calls.
        if self.closed || self.next > u32::MAX - 2 {
            return Err(ClientError::Closed);
        }
        let stream = self.next;
        self.next += 2;
        let (sender, receiver) = oneshot::channel();
        self.answers.insert(stream, sender);
        Ok((stream, receiver))
    }
}

/// Forgets a call that is dropped or done.
struct Forget<'a> {
    waiting: &'a Mutex<Waiting>,
    stream: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).answers.remove(&self.stream);
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_value(key: &str, value: &str) -> KeyValue {
    let mut pair = KeyValue::new();
    pair.key = key.to_owned();
    pair.value = value.to_owned();
    pair
}

/// The connection: writes requests, hands answers out, ends when either side
/// has closed.
async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    mut unwritten: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        while let Some(frame) = unwritten.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
        // All clients are gone; nobody waits for an answer.
    };
    let read = async {
        while let Ok(Some(frame)) = frame::read(&mut reader).await {
            deliver(frame, &waiting);
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    let mut waiting = lock(&waiting);
    waiting.closed = true;
    waiting.answers.clear();
}

fn deliver(frame: Frame, waiting: &Mutex<Waiting>) {
    let (stream, answer) = match frame {
        Frame::TooLong(header) => {
            let status = frame::too_long(header.length as usize);
            (header.stream_id, Err(ClientError::Status(status)))
        }
        Frame::Whole(header, message) if header.type_ == MESSAGE_TYPE_RESPONSE => {
            (header.stream_id, answer(&message))
        }
        Frame::Whole(..) => return,
    };
    let sender = lock(waiting).answers.remove(&stream);
    if let Some(sender) = sender {
        let _ = sender.send(answer);
    }
}

/// Takes a response apart. Total.
///
/// # Errors
/// The status it carries, or that it carries rubbish.
pub fn answer(message: &[u8]) -> Result<Vec<u8>, ClientError> {
    let response = Response::parse_from_bytes(message)
        .map_err(|e| ClientError::Malformed(format!("response: {e}")))?;
    match response.status.into_option().and_then(Status::from_wire) {
        Some(status) => Err(ClientError::Status(status)),
        None => Ok(response.payload),
    }
}
