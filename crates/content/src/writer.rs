//! Writing a blob.

use davit_types::Digest;

use crate::{BlobInfo, Error, IngestStatus};

/// An ingest that is being written. Dropping it keeps the bytes for a later
/// writer of the same reference, and lets go of the lock.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// The ingest's name.
    pub fn reference(&self) -> &str {
        todo!()
    }

    /// Bytes written so far, those of earlier writers included.
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// The digest of what is written so far.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// Where the ingest stands.
    pub fn status(&self) -> IngestStatus {
        todo!()
    }

    /// Appends all of `data`. On failure (a full disk) the ingest is as it
    /// was before the call.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let _ = data;
        todo!()
    }

    /// Empties the ingest. As with containerd, `size` can only be 0.
    pub fn truncate(&mut self, size: u64) -> Result<(), Error> {
        let _ = size;
        todo!()
    }

    /// Brings what is written to the disk. `commit` does it too; calling it
    /// before keeps `commit` short.
    pub fn sync(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// Makes the ingest a blob: checks `size` (0: any) and `expected`, syncs,
    /// and only then names it. When the blob exists already, the ingest is
    /// removed and the answer is [`Error::AlreadyExists`]. After any other
    /// failure the ingest is left, and can be resumed.
    pub fn commit(self, size: u64, expected: Option<&Digest>) -> Result<BlobInfo, Error> {
        let _ = (size, expected);
        todo!()
    }
}
