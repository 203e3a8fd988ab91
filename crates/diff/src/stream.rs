//! From a layer's bytes to the archive in it: one thread decompresses, one
//! hashes, the caller's reads. Limits are checked where the bytes arise.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use davit_types::{Algorithm, Digest};
use sha2::Digest as _;

use crate::Error;

/// Bytes that go from thread to thread at once.
const CHUNK: usize = 1 << 18;
/// How many chunks may wait for a slower thread.
const CHUNKS_WAITING: usize = 8;

/// How much a layer may unpack to. 0 means no limit, which is what containerd
/// has.
///
/// The defaults are to let every layer pass that somebody made to be used, and
/// to stop what was made to fill a disk: no registry takes a layer that has
/// anywhere near 256 GiB in it, the largest package trees have some millions
/// of files, and a gigabyte of zeros is no harm yet. Beyond that, only a layer
/// of which not one byte in three hundred means anything shrinks to a
/// five-hundredth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Bytes of the uncompressed stream, and of the holes in sparse files.
    pub uncompressed_bytes: u64,
    /// Uncompressed bytes for each compressed one.
    pub ratio: u64,
    /// From how many uncompressed bytes on the ratio is looked at: a few
    /// zeros compress well.
    pub ratio_from: u64,
    /// Entries in the archive.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { uncompressed_bytes: 256 << 30, ratio: 500, ratio_from: 1 << 30, entries: 10_000_000 }
    }
}

impl Limits {
    /// None at all.
    pub const NONE: Self = Self { uncompressed_bytes: 0, ratio: 0, ratio_from: 0, entries: 0 };
}

/// What a stream turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The SHA-256 of the uncompressed stream (the layer's diff ID).
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Directories that the archive only implied, relative to the tree,
    /// parents first; they look as if made by `mkdir -p` until they are
    /// [settled](crate::settle). Collected where the layers below were to
    /// come later, empty otherwise.
    pub implied: Vec<PathBuf>,
}

/// Bytes of the stream. The buffer is used again when all threads are done
/// with it.
struct Chunk {
    bytes: Vec<u8>,
    done: SyncSender<Vec<u8>>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Nobody wants it at the end.
        let _ = self.done.try_send(std::mem::take(&mut self.bytes));
    }
}

type Item = Result<Arc<Chunk>, Error>;

/// The uncompressed stream, as it comes out of the threads.
pub(crate) struct Stream {
    chunks: Receiver<Item>,
    current: Option<Arc<Chunk>>,
    at: usize,
    /// Why the stream ended early; `io::Error` could not carry it whole.
    failure: Rc<Cell<Option<Error>>>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let count = available.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.available() {
            self.current = None;
            self.at = 0;
            match self.chunks.recv() {
                Ok(Ok(chunk)) => self.current = Some(chunk),
                Ok(Err(error)) => {
                    self.failure.set(Some(error));
                    return Err(io::Error::other("the stream failed"));
                }
                // The sender is done.
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.bytes[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.available());
    }
}

impl Stream {
    fn available(&self) -> usize {
        self.current.as_ref().map_or(0, |chunk| chunk.bytes.len())
    }
}

/// Counts what it passes on.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Runs `body` on the archive in `input`, reads what `body` leaves, and says
/// what the whole uncompressed stream was.
pub(crate) fn with_stream<T>(
    input: impl Read + Send,
    compressed: bool,
    limits: Limits,
    body: impl FnOnce(&mut Stream) -> Result<T, Error>,
) -> Result<(T, Applied), Error> {
    let (chunk_sender, chunks) = sync_channel::<Item>(CHUNKS_WAITING);
    let (hash_sender, to_hash) = sync_channel::<Arc<Chunk>>(CHUNKS_WAITING);
    thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&to_hash));
        scope.spawn(move || {
            if let Err(error) = pump(input, compressed, limits, &chunk_sender, &hash_sender) {
                // Nobody listens when the archive itself was refused.
                let _ = chunk_sender.send(Err(error));
            }
        });
        let failure = Rc::new(Cell::new(None));
        let mut stream = Stream { chunks, current: None, at: 0, failure: failure.clone() };
        let result = body(&mut stream).and_then(|value| drain(&mut stream).map(|()| value));
        // Lets the pump end when the archive was not read to its end.
        drop(stream);
        let applied = hasher.join().map_err(|_| Error::Worker("the hash thread died".into()))?;
        match (result, failure.take()) {
            (Err(_), Some(cause)) => Err(cause),
            (result, _) => result.map(|value| (value, applied)),
        }
    })
}

fn drain(stream: &mut Stream) -> Result<(), Error> {
    loop {
        match stream.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(rest) => {
                let count = rest.len();
                stream.consume(count);
            }
            Err(error) => return Err(Error::Decompress(error)),
        }
    }
}

fn hash(chunks: &Receiver<Arc<Chunk>>) -> Applied {
    let (mut hash, mut size) = (sha2::Sha256::new(), 0);
    for chunk in chunks {
        hash.update(&chunk.bytes);
        size += chunk.bytes.len() as u64;
    }
    Applied { digest: digest_of(hash), size, implied: Vec::new() }
}

/// The digest that a finished hash stands for.
pub(crate) fn digest_of(hash: sha2::Sha256) -> Digest {
    Digest::of_sum(Algorithm::Sha256, &hash.finalize())
}

/// Decompresses into both channels; ends early when nobody takes the chunks.
fn pump(
    input: impl Read,
    compressed: bool,
    limits: Limits,
    chunks: &SyncSender<Item>,
    to_hash: &SyncSender<Arc<Chunk>>,
) -> Result<(), Error> {
    let read = Arc::new(AtomicU64::new(0));
    let input = Counted { input, count: read.clone() };
    let mut input = decompressor(input, compressed).map_err(Error::Decompress)?;
    // As many as there can be: all that wait, and one that each thread holds.
    let (done, used) = sync_channel(2 * CHUNKS_WAITING + 3);
    let mut total = 0;
    loop {
        let mut bytes = used.try_recv().unwrap_or_default();
        fill(&mut input, &mut bytes).map_err(Error::Decompress)?;
        if bytes.is_empty() {
            return Ok(());
        }
        total += bytes.len() as u64;
        check(limits, total, read.load(Ordering::Relaxed))?;
        let chunk = Arc::new(Chunk { bytes, done: done.clone() });
        if to_hash.send(chunk.clone()).is_err() || chunks.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

fn check(limits: Limits, total: u64, read: u64) -> Result<(), Error> {
    if limits.uncompressed_bytes > 0 && total > limits.uncompressed_bytes {
        let limit = limits.uncompressed_bytes;
        return Err(Error::Limit { what: "uncompressed bytes", limit });
    }
    if limits.ratio > 0 && total > limits.ratio_from && total / read.max(1) > limits.ratio {
        return Err(Error::Limit { what: "bytes out of one compressed byte", limit: limits.ratio });
    }
    Ok(())
}

/// The archive in a stream that may be compressed by gzip or zstd, read on the
/// caller's thread.
pub struct Decompressed<'a> {
    input: Box<dyn Read + 'a>,
    limits: Limits,
    /// Bytes taken from the stream.
    read: Arc<AtomicU64>,
    /// Bytes that came out.
    total: u64,
}

impl<'a> Decompressed<'a> {
    /// Reads from the start of `input`. What goes over `limits`, the one on
    /// entries aside, is an error of [`Read::read`].
    ///
    /// # Errors
    /// Those of `input`.
    pub fn new(input: impl Read + 'a, limits: Limits) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let input = decompressor(Counted { input, count: read.clone() }, true)?;
        Ok(Self { input, limits, read, total: 0 })
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.total += count as u64;
        match check(self.limits, self.total, self.read.load(Ordering::Relaxed)) {
            Err(Error::Limit { what, limit }) => {
                let message = format!("more than {limit} {what}");
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, message))
            }
            _ => Ok(count),
        }
    }
}

/// Puts the next bytes into a buffer, as many as it may hold; none at the end.
fn fill(input: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(CHUNK, 0);
    let mut filled = 0;
    while filled < CHUNK {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// What the first bytes call for (containerd, `pkg/archive/compression`):
/// gzip and zstd are known, all else is taken as it is.
fn decompressor<'a>(mut input: impl Read + 'a, compressed: bool) -> io::Result<Box<dyn Read + 'a>> {
    if !compressed {
        return Ok(Box::new(input));
    }
    let mut start = Vec::new();
    input.by_ref().take(10).read_to_end(&mut start)?;
    let kind = start.clone();
    let input = io::BufReader::with_capacity(CHUNK, io::Cursor::new(start).chain(input));
    Ok(match kind[..] {
        [0x1f, 0x8b, 0x08, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        // A frame, or one that is to be skipped, which may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
        }
        _ => Box::new(input),
    })
}
