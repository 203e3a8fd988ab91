//! What a store of blobs has to be able to do, wherever its bytes are.

use std::fmt::Debug;
use std::fs::File;
use std::io;

use davit_types::{Algorithm, Digest};

use crate::{BlobInfo, Error, IngestStatus, LocalStore, Reader, Writer};

/// A store of blobs and ingests: on a local file system ([`LocalStore`]), or
/// in another process.
///
/// Every method may block, and may be called from any thread that may.
pub trait Backend: Debug + Send + Sync {
    /// Begins the ingest `reference` or goes on with it, and locks it until
    /// the writer is committed or dropped. `total` is the size expected, 0 if
    /// unknown.
    ///
    /// # Errors
    /// `Unavailable` when somebody else writes to it.
    fn open_writer(
        &self,
        reference: &str,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Box<dyn BackendWriter>, Error>;

    /// Where an ingest stands.
    fn status(&self, reference: &str) -> Result<IngestStatus, Error>;

    /// Where all ingests stand, in no order.
    fn list_statuses(&self) -> Result<Vec<IngestStatus>, Error>;

    /// Throws an ingest away.
    fn abort(&self, reference: &str) -> Result<(), Error>;

    /// What is known of a blob.
    fn info(&self, digest: &Digest) -> Result<BlobInfo, Error>;

    /// Opens a blob for reading.
    fn reader(&self, digest: &Digest) -> Result<Reader, Error>;

    /// Opens a blob for reading that is known to have `size` bytes.
    ///
    /// # Errors
    /// `DataLoss` when it has not.
    fn whole_reader(&self, digest: &Digest, size: u64) -> Result<Reader, Error>;

    /// Removes a blob. Readers that are open may fail from now on.
    fn delete(&self, digest: &Digest) -> Result<(), Error>;

    /// All blobs.
    fn walk(&self) -> Result<Vec<BlobInfo>, Error>;
}

/// An ingest that is being written. Dropping it keeps the bytes for a later
/// writer of the same reference.
pub trait BackendWriter: Debug + Send {
    /// Where it stands; asks nobody.
    fn status(&self) -> IngestStatus;

    /// The digest of what is written so far; asks nobody.
    fn digest(&self) -> Digest;

    /// What is written as a file, open at its first byte, where the store
    /// has files. What is written later can be read there too.
    fn file(&self) -> Result<Option<File>, Error>;

    /// Appends all of `data`.
    fn write(&mut self, data: &[u8]) -> Result<(), Error>;

    /// Empties the ingest; `size` can only be 0.
    fn truncate(&mut self, size: u64) -> Result<(), Error>;

    /// Makes the ingest a blob, after having checked `size` (0: any) and
    /// `expected`. When the blob exists already, the ingest is removed and
    /// the answer is `AlreadyExists`.
    fn commit(self: Box<Self>, size: u64, expected: Option<&Digest>) -> Result<BlobInfo, Error>;
}

/// A blob whose bytes are in another process.
pub trait Blob: Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Reads into `buffer` from `offset`; fewer bytes than asked for at the
    /// end of the blob alone.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Backend for LocalStore {
    fn open_writer(
        &self,
        reference: &str,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Box<dyn BackendWriter>, Error> {
        Ok(Box::new(self.open_writer_for(reference, total, algorithm)?))
    }

    fn status(&self, reference: &str) -> Result<IngestStatus, Error> {
        self.status(reference)
    }

    fn list_statuses(&self) -> Result<Vec<IngestStatus>, Error> {
        self.list_statuses()
    }

    fn abort(&self, reference: &str) -> Result<(), Error> {
        self.abort(reference)
    }

    fn info(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        self.info(digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Reader, Error> {
        self.reader(digest)
    }

    fn whole_reader(&self, digest: &Digest, size: u64) -> Result<Reader, Error> {
        self.whole_reader(digest, size)
    }

    fn delete(&self, digest: &Digest) -> Result<(), Error> {
        self.delete(digest)
    }

    fn walk(&self) -> Result<Vec<BlobInfo>, Error> {
        self.walk()
    }
}

impl BackendWriter for Writer {
    fn status(&self) -> IngestStatus {
        self.status()
    }

    fn digest(&self) -> Digest {
        self.digest()
    }

    fn file(&self) -> Result<Option<File>, Error> {
        self.file().map(Some)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.write(data)
    }

    fn truncate(&mut self, size: u64) -> Result<(), Error> {
        self.truncate(size)
    }

    fn commit(self: Box<Self>, size: u64, expected: Option<&Digest>) -> Result<BlobInfo, Error> {
        (*self).commit(size, expected)
    }
}
