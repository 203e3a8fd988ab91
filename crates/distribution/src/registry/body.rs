//! What a request carries: nothing, a few bytes, or a blob that is read while
//! it is sent.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// A blob that can be read from any position, again if need be: an upload
/// that breaks begins anew.
pub trait BlobSource: Send + Sync {
    /// The blob's bytes from `offset` on. Called and read where blocking is
    /// allowed.
    ///
    /// # Errors
    /// The file system's.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

impl BlobSource for Bytes {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(Box::new(io::Cursor::new(self.slice(from..))))
    }
}

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Pieces that wait to be sent.
const AHEAD: usize = 4;

/// What is to be sent, as often as it takes.
#[derive(Clone, Default)]
pub(crate) enum Payload {
    /// Nothing.
    #[default]
    None,
    /// These bytes.
    Whole(Bytes),
    /// A part of a blob.
    Part {
        /// The blob.
        source: Arc<dyn BlobSource>,
        /// Where the part begins.
        offset: u64,
        /// Its length.
        length: u64,
        /// Told of every byte sent.
        upload: Arc<Upload>,
    },
}

/// How an upload goes on: shared by who sends it and who waits.
#[derive(Debug)]
pub(crate) struct Upload(Mutex<State>);

#[derive(Debug)]
struct State {
    sent: u64,
    moved: Instant,
    is_done: bool,
    /// Why the blob cannot be read.
    failure: Option<io::Error>,
}

impl Upload {
    /// One that has not begun.
    pub fn new() -> Arc<Self> {
        let state = State { sent: 0, moved: Instant::now(), is_done: false, failure: None };
        Arc::new(Self(Mutex::new(state)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes handed to the connection in this attempt.
    pub fn sent(&self) -> u64 {
        self.with(|state| state.sent)
    }

    /// When the last byte moved, and whether that was the very last.
    pub fn progress(&self) -> (Instant, bool) {
        self.with(|state| (state.moved, state.is_done))
    }

    /// Why the blob cannot be read, if that is what went wrong.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.with(|state| state.failure.take())
    }

    fn begin(&self) {
        self.with(|state| {
            *state = State { sent: 0, moved: Instant::now(), is_done: false, failure: None }
        });
    }
}

impl Payload {
    /// The body of one attempt.
    pub fn open(&self) -> Body {
        match self {
            Self::None => Body::Whole(None),
            Self::Whole(bytes) => Body::Whole(Some(bytes.clone()).filter(|b| !b.is_empty())),
            Self::Part { source, offset, length, upload } => {
                upload.begin();
                let (sender, pieces) = mpsc::channel(AHEAD);
                let (source, offset, length) = (source.clone(), *offset, *length);
                tokio::task::spawn_blocking(move || read(&*source, offset, length, &sender));
                Body::Part { pieces, left: length, upload: upload.clone() }
            }
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Part { length, .. } => *length == 0,
        }
    }

    /// How the upload goes on, if this is one.
    pub fn upload(&self) -> Option<&Arc<Upload>> {
        match self {
            Self::Part { upload, .. } => Some(upload),
            _ => None,
        }
    }
}

/// Reads a part of a blob until it is sent or nobody wants it any more.
fn read(
    source: &dyn BlobSource,
    offset: u64,
    length: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut left = length;
    let mut reader = match source.open(offset) {
        Ok(reader) => reader,
        // Whoever is gone needs no error.
        Err(error) => return drop(sender.blocking_send(Err(error))),
    };
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let mut piece = BytesMut::zeroed(want);
        let result = reader.read_exact(&mut piece).map(|()| piece.freeze());
        let failed = result.is_err();
        if sender.blocking_send(result).is_err() || failed {
            return;
        }
        left -= want as u64;
    }
}

/// One attempt's body.
pub(crate) enum Body {
    /// Bytes that are there.
    Whole(Option<Bytes>),
    /// Bytes that come.
    Part {
        /// Them.
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        /// How many are still to come.
        left: u64,
        /// Whom to tell.
        upload: Arc<Upload>,
    },
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Part { left: 0, .. } => Poll::Ready(None),
            Self::Part { pieces, left, upload } => {
                let piece = match std::task::ready!(pieces.poll_recv(context)) {
                    Some(piece) => piece,
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                };
                Poll::Ready(Some(
                    piece
                        .map(|bytes| {
                            *left = left.saturating_sub(bytes.len() as u64);
                            let is_done = *left == 0;
                            upload.with(|state| {
                                state.sent += bytes.len() as u64;
                                state.moved = Instant::now();
                                state.is_done = is_done;
                            });
                            Frame::data(bytes)
                        })
                        .inspect_err(|error| {
                            let copy = io::Error::new(error.kind(), error.to_string());
                            upload.with(|state| state.failure = Some(copy));
                        }),
                ))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Part { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Part { left, .. } => SizeHint::with_exact(*left),
        }
    }
}
