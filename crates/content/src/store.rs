//! The store on a local file system.

use std::path::Path;

use davit_types::{Algorithm, Digest};

use crate::{BlobInfo, Error, IngestStatus, Reader, Writer};

/// A content store below one directory:
/// `blobs/<algorithm>/<hex>` and `ingest/<sha256 of ref>/{data,ref,startedat,updatedat,total}`.
///
/// Cheap to share behind an `Arc`; every method may be called from any thread.
/// One process at a time may use a directory for writing.
#[derive(Debug)]
pub struct LocalStore {}

impl LocalStore {
    /// Opens the store below `root`, which is made when it is missing.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let _ = root;
        todo!()
    }

    /// Begins or resumes the ingest `reference` and locks it until the writer
    /// is committed or dropped. `total` is the size expected, 0 if unknown.
    ///
    /// With `expected`, a blob that exists is [`Error::AlreadyExists`], and
    /// the hash function is that of the digest.
    pub fn open_writer(
        &self,
        reference: &str,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Writer, Error> {
        let _ = (reference, total, expected);
        todo!()
    }

    /// Like [`open_writer`](Self::open_writer), without asking whether the
    /// blob exists: for callers that must not let a client learn that from
    /// the store (isolated namespaces).
    pub fn open_writer_for(
        &self,
        reference: &str,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Writer, Error> {
        let _ = (reference, total, algorithm);
        todo!()
    }

    /// Where an ingest stands.
    pub fn status(&self, reference: &str) -> Result<IngestStatus, Error> {
        let _ = reference;
        todo!()
    }

    /// Where all ingests stand, in no order.
    pub fn list_statuses(&self) -> Result<Vec<IngestStatus>, Error> {
        todo!()
    }

    /// Throws an ingest away. One that is being written is taken from under
    /// its writer, whose commit then fails.
    pub fn abort(&self, reference: &str) -> Result<(), Error> {
        let _ = reference;
        todo!()
    }

    /// What is known of a blob.
    pub fn info(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        let _ = digest;
        todo!()
    }

    /// Opens a blob for reading.
    pub fn reader(&self, digest: &Digest) -> Result<Reader, Error> {
        let _ = digest;
        todo!()
    }

    /// Removes a blob. Open readers keep what they have.
    pub fn delete(&self, digest: &Digest) -> Result<(), Error> {
        let _ = digest;
        todo!()
    }

    /// All blobs, in the order of their digests.
    pub fn walk(&self) -> Result<Vec<BlobInfo>, Error> {
        todo!()
    }

    /// Says that a blob was used: sets its `updated_at` to now.
    pub fn touch(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        let _ = digest;
        todo!()
    }
}
