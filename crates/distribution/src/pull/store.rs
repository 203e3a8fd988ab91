//! Where a pull brings what it fetches.

use std::fs::File;
use std::io::Read;

use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels};

/// A place for blobs: a daemon's content store, a directory.
///
/// Every method may block, and is called where that is allowed. What a store
/// takes in stays at least as long as the pull lasts.
pub trait Store: Send + Sync + 'static {
    /// Begins the ingest `reference`, or goes on with what an earlier pull
    /// has left of it. `None` when the blob is there already.
    ///
    /// # Errors
    /// `Unavailable` when somebody else writes to it just now.
    fn ingest(
        &self,
        reference: &str,
        blob: &Descriptor,
    ) -> Result<Option<Box<dyn Ingest>>, Failure>;

    /// Opens a blob, at its first byte.
    fn open(&self, digest: &Digest) -> Result<File, Failure>;

    /// The labels of a blob; none in a store that keeps no labels.
    fn labels(&self, digest: &Digest) -> Result<Labels, Failure>;

    /// Adds labels to a blob.
    fn label(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure>;

    /// Reads a small blob whole.
    ///
    /// # Errors
    /// `ResourceExhausted` for one of more than `limit` bytes.
    fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure> {
        let failed = |error| Failure::io(&format!("read {digest}"), &error);
        let mut bytes = Vec::new();
        let mut file = self.open(digest)?.take(limit + 1);
        file.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(too_large(digest, limit));
        }
        Ok(bytes)
    }
}

/// A blob is no document that anybody should have in memory.
pub fn too_large(digest: &Digest, limit: u64) -> Failure {
    let text = format!("{digest} has more than the {limit} bytes that a document may have");
    Failure::new(ErrorKind::ResourceExhausted, text)
}

/// A blob on its way into a store. One that is dropped keeps its bytes for a
/// later pull.
pub trait Ingest: Send {
    /// Bytes that it has.
    fn offset(&self) -> u64;

    /// Appends all of `bytes`; after a failure it is as it was before.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure>;

    /// Opens what is written for reading, at its first byte, where the store
    /// has files. What is written later can be read there too.
    fn file(&self) -> Result<Option<File>, Failure>;

    /// Makes a blob of it, after having checked its size and digest. Fine
    /// when there is one already.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not what was promised.
    fn commit(self: Box<Self>, size: u64, digest: &Digest) -> Result<(), Failure>;
}

impl std::fmt::Debug for dyn Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("offset", &self.offset()).finish_non_exhaustive()
    }
}

/// What went wrong in a store, at a registry or while unpacking: in words,
/// with its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    kind: ErrorKind,
    message: String,
    lasting: bool,
}

impl Failure {
    /// A failure in these words.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), lasting: false }
    }

    /// What `error` says, with all its sources.
    pub fn of(error: &impl Kind) -> Self {
        Self::new(error.kind(), error.full_message())
    }

    /// `what` could not be done.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(ErrorKind::of_io(error), format!("{what}: {error}"))
    }

    /// The same, and nobody need try again soon: the store itself is away.
    pub fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }

    /// Whether nobody need try again soon.
    pub(crate) fn is_lasting(&self) -> bool {
        self.lasting
    }
}

impl Kind for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}
