//! A ttrpc server for one thread or many, with nothing alive between calls
//! but a socket: an idle connection has no buffer and no task of its own
//! beyond the one that waits for it.
//!
//! What it keeps, whatever a peer sends:
//! - a handler that was started runs to its end, though its caller goes away,
//!   stops reading or sends rubbish; only its answer is dropped then;
//! - frames are answered as Go's server does (`github.com/containerd/ttrpc`
//!   1.2, `server.go`): stream ids odd and increasing, unknown services and
//!   methods Unimplemented, over-long frames ResourceExhausted, and the
//!   connection stays usable;
//! - memory per connection is bounded by [`IN_FLIGHT_MAX`] and
//!   [`UNSENT_MAX`].
//!
//! The `ttrpc` crate's own server was not used: it answers an unknown method
//! with a code that no caller downgrades on, drops handlers whose caller has
//! gone, and takes several tasks and channels per connection.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use davit_types::ErrorKind;
use futures::stream::{FuturesUnordered, StreamExt};
use protobuf::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;
use ttrpc::proto::{MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST, MessageHeader, Request};

use super::frame::{self, Frame};
pub use super::status::Status;

/// How many calls one connection may have running; more are refused with
/// ResourceExhausted. A daemon has one Wait per process on its connection, so
/// the limit must not be small, nor may reading stop at it.
pub const IN_FLIGHT_MAX: usize = 4096;

/// How many bytes of answers may wait for a peer that does not read. At the
/// limit nothing more is read from it until it does.
pub const UNSENT_MAX: usize = 8 << 20;

/// The longest pause after `accept` has failed (out of descriptors, say).
pub const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The service's full name: `containerd.task.v3.Task`.
    pub service: String,
    /// The method's bare name: `Create`.
    pub method: String,
    /// The encoded request message.
    pub payload: Vec<u8>,
    /// What the caller sent along.
    pub metadata: Metadata,
    /// When the caller gives up. The server does not end a handler then.
    pub deadline: Option<Instant>,
    /// Whether the caller is still there.
    pub caller: Caller,
}

/// Keys and values sent along with a call; keys may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(pub Vec<(String, String)>);

impl Metadata {
    /// The first value of a key; letters' case does not matter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }
}

/// Tells a handler that its caller has gone. For handlers that only wait;
/// those that change something run to their end.
#[derive(Clone, Debug)]
pub struct Caller(watch::Receiver<bool>);

impl Caller {
    /// Returns when the caller's connection is closed.
    pub async fn gone(&self) {
        let mut receiver = self.0.clone();
        // A closed channel means that the connection has ended.
        let _ = receiver.wait_for(|gone| *gone).await;
    }
}

/// Takes a request apart that came in a frame of this header. Total: any
/// bytes give a call or the status to answer with. `last` is the highest
/// stream id of a request before this one.
///
/// # Errors
/// The status to answer on the frame's own stream id.
pub fn parse(header: &MessageHeader, message: &[u8], last: u32) -> Result<Option<Request>, Status> {
    let invalid = |text: String| Err(Status::new(ErrorKind::InvalidArgument, text));
    if header.stream_id % 2 != 1 {
        return invalid("StreamID must be odd for client initiated streams".into());
    }
    match header.type_ {
        // We serve no streams, so none can be active.
        MESSAGE_TYPE_DATA => invalid("StreamID is no longer active".into()),
        MESSAGE_TYPE_REQUEST if header.stream_id <= last => {
            invalid("StreamID cannot be re-used and must increment".into())
        }
        MESSAGE_TYPE_REQUEST => match Request::parse_from_bytes(message) {
            Ok(request) => Ok(Some(request)),
            Err(e) => invalid(format!("unmarshal request error: {e}")),
        },
        // Types of later versions are ignored, as the protocol asks.
        _ => Ok(None),
    }
}

/// Serves one connection until the peer has gone **and** every handler that
/// it started has ended. The future is `Send` if the handlers' are.
///
/// `handler` finds the method and returns what runs it; see
/// [`Status::unknown_service`] and [`Status::unknown_method`] for what it is
/// to answer otherwise.
pub async fn serve_connection<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite,
    H: Fn(Call) -> F,
    F: Future<Output = Result<Vec<u8>, Status>>,
{
    let (_never, closing) = watch::channel(false);
    serve_connection_until(stream, handler, closing).await;
}

/// As [`serve_connection`]; once `closing` turns true the connection is closed
/// as soon as no call runs and every answer has been sent.
pub async fn serve_connection_until<S, H, F>(
    stream: S,
    handler: H,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite,
    H: Fn(Call) -> F,
    F: Future<Output = Result<Vec<u8>, Status>>,
{
    let (gone, caller) = watch::channel(false);
    let mut connection =
        Connection { running: FuturesUnordered::new(), unsent: Unsent::default(), last: 0 };
    connection.talk(stream, &handler, &caller, &mut closing).await;
    gone.send_replace(true);
    while connection.running.next().await.is_some() {}
}

/// A connection's state beside its socket.
struct Connection<F> {
    running: FuturesUnordered<Running<F>>,
    unsent: Unsent,
    /// The highest stream id of a request so far.
    last: u32,
}

impl<F: Future<Output = Result<Vec<u8>, Status>>> Connection<F> {
    /// Reads, runs and answers until the peer has gone.
    async fn talk<S, H>(
        &mut self,
        stream: S,
        handler: &H,
        caller: &watch::Receiver<bool>,
        closing: &mut watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite,
        H: Fn(Call) -> F,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        // The stream of frames holds the future that reads one, so that
        // losing a race against an answer loses no bytes.
        let mut frames = pin!(futures::stream::unfold(reader, next_frame));
        let mut closing = pin!(async move {
            // Nobody left who could turn it true: it never will.
            if closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let mut asked_to_close = false;
        loop {
            if asked_to_close && self.running.is_empty() && self.unsent.len() == 0 {
                return;
            }
            tokio::select! {
                () = &mut closing, if !asked_to_close => asked_to_close = true,
                frame = frames.next(), if self.unsent.len() < UNSENT_MAX => match frame {
                    Some(frame) => self.take(frame, handler, caller),
                    None => return,
                },
                Some((stream, result)) = self.running.next(), if !self.running.is_empty() => {
                    self.unsent.push(frame::response(stream, result));
                }
                written = writer.write(self.unsent.rest()), if self.unsent.len() > 0 => {
                    match written {
                        Ok(count) if count > 0 => self.unsent.advance(count),
                        _ => return,
                    }
                }
            }
        }
    }

    fn take<H: Fn(Call) -> F>(
        &mut self,
        frame: Frame,
        handler: &H,
        caller: &watch::Receiver<bool>,
    ) {
        let (header, parsed) = match frame {
            Frame::TooLong(header) => (header, Err(frame::too_long(header.length as usize))),
            Frame::Whole(header, message) => {
                let parsed = parse(&header, &message, self.last);
                let accepted = header.type_ == MESSAGE_TYPE_REQUEST && header.stream_id % 2 == 1;
                if accepted {
                    self.last = self.last.max(header.stream_id);
                }
                (header, parsed)
            }
        };
        let stream = header.stream_id;
        match parsed {
            Ok(Some(_)) if self.running.len() >= IN_FLIGHT_MAX => {
                let text = format!("more than {IN_FLIGHT_MAX} calls on one connection");
                let status = Status::new(ErrorKind::ResourceExhausted, text);
                self.unsent.push(frame::response(stream, Err(status)));
            }
            Ok(Some(request)) => {
                let future = Box::pin(handler(call(request, caller)));
                self.running.push(Running { stream, future });
            }
            Ok(None) => {}
            Err(status) => self.unsent.push(frame::response(stream, Err(status))),
        }
    }
}

async fn next_frame<R: AsyncRead + Unpin>(mut reader: R) -> Option<(Frame, R)> {
    match frame::read(&mut reader).await {
        Ok(Some(frame)) => Some((frame, reader)),
        Ok(None) => None,
        Err(e) => {
            log::debug!(error:% = e; "ttrpc connection broke");
            None
        }
    }
}

fn call(request: Request, caller: &watch::Receiver<bool>) -> Call {
    let deadline = match request.timeout_nano {
        0 => None,
        nanos => Instant::now().checked_add(Duration::from_nanos(nanos.max(0) as u64)),
    };
    Call {
        service: request.service,
        method: request.method,
        payload: request.payload,
        metadata: Metadata(request.metadata.into_iter().map(|kv| (kv.key, kv.value)).collect()),
        deadline,
        caller: Caller(caller.clone()),
    }
}

/// A handler, and where its answer goes.
struct Running<F> {
    stream: u32,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = (u32, F::Output);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = self.stream;
        self.future.as_mut().poll(cx).map(|output| (stream, output))
    }
}

/// Answers on their way out. Holds no memory when there are none.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn push(&mut self, frame: Vec<u8>) {
        match self.bytes.is_empty() {
            true => self.bytes = frame,
            false => self.bytes.extend_from_slice(&frame),
        }
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        } else if self.sent > UNSENT_MAX {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// Accepts the next connection whose peer may use the socket: root, or the
/// user that we run as. Others are closed without a word. Goes on after
/// errors, with pauses.
///
/// # Errors
/// When the socket is no listening socket any more.
pub async fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match is_trusted(&stream) {
                true => return Ok(stream),
                false => log::warn!("refused a ttrpc connection of another user"),
            },
            Err(e) if matches!(e.raw_os_error(), Some(EBADF | EINVAL | ENOTSOCK)) => return Err(e),
            Err(e) => {
                log::warn!(error:% = e; "accepting a ttrpc connection failed");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

const EBADF: i32 = 9;
const EINVAL: i32 = 22;
const ENOTSOCK: i32 = 88;

fn is_trusted(stream: &UnixStream) -> bool {
    // /proc/self belongs to the effective user, unless the process is
    // undumpable, and then to root.
    let own = || std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    match stream.peer_cred() {
        Ok(peer) => peer.uid() == 0 || own().is_ok_and(|own| own == peer.uid()),
        Err(_) => false,
    }
}

/// Accepts and serves until the listener breaks, each connection a task of a
/// runtime with several threads.
///
/// # Errors
/// As [`accept`].
pub async fn serve<H, F>(listener: UnixListener, handler: H) -> io::Result<()>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
{
    loop {
        let stream = accept(&listener).await?;
        tokio::spawn(serve_connection(stream, handler.clone()));
    }
}

/// As [`serve`], on a `LocalSet`: handlers need not be `Send`.
///
/// # Errors
/// As [`accept`].
pub async fn serve_local<H, F>(listener: UnixListener, handler: H) -> io::Result<()>
where
    H: Fn(Call) -> F + Clone + 'static,
    F: Future<Output = Result<Vec<u8>, Status>> + 'static,
{
    loop {
        let stream = accept(&listener).await?;
        tokio::task::spawn_local(serve_connection(stream, handler.clone()));
    }
}

#[cfg(test)]
mod tests;
